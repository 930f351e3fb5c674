#!/usr/bin/env bash
# Nack with a delay: try again, but not at once.
. "$(dirname "$0")/lib.sh"
given_a_lease
JOB=$(member id)

say "Not now, in a second"
request -X POST "$GATEWAY/leases/$LEASE/nack" -H 'Content-Type: application/json' -d '{"delay":1}'
expect_status 200
expect_in_body '"position":"tail"'
expect_in_body '"due_at":"'

say "Nobody gets it before"
request "$GATEWAY/queues/$QUEUE/next?timeout=0"
expect_status 204

say "Then it is there again"
request "$GATEWAY/queues/$QUEUE/next?timeout=10"
expect_status 200
expect_in_body "\"id\":\"$JOB\""
expect_in_body '"attempt":2'
