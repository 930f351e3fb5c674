#!/usr/bin/env bash
# A stream: jobs come as lines, each under a lease of its own.
. "$(dirname "$0")/lib.sh"
given_a_job '{"number":1}'
given_a_job '{"number":2}'

say "The jobs that come within two seconds, at most ten at a time"
request -N "$GATEWAY/queues/$QUEUE/stream?window=10&lifetime=2"
expect_status 200
expect_in_body '"type":"open"'
expect_in_body '"number":1'
expect_in_body '"number":2'
expect_in_body '"reason":"lifetime"'

say "Settle both with one request"
LEASES=$(grep '"type":"job"' "$FILES/body" | grep -o '"lease":{"id":"[^"]*' | cut -d '"' -f 6 | sed 's/.*/"&"/' | paste -sd , -)
request "$GATEWAY/leases/settle" -H 'Content-Type: application/json' -d "{\"acks\":[$LEASES]}"
expect_status 200

say "Several queues, as server-sent events"
request -N "$GATEWAY/stream?queue=$QUEUE&lifetime=0.2" -H 'Accept: text/event-stream'
expect_status 200
expect_in_body 'event: end'
