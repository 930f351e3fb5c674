#!/usr/bin/env bash
# Enqueue one JSON job: 201 is answered once it is stored.
. "$(dirname "$0")/lib.sh"

say "Enqueue a JSON job"
request "$GATEWAY/queues/$QUEUE/jobs" -H 'Content-Type: application/json' -d '{"to":"ada@example.org","amount":1.10}'
expect_status 201
expect_in_body "\"queue\":\"$QUEUE\""

say "It comes back as it was written: 1.10 is not 1.1"
request "$GATEWAY/queues/$QUEUE/next?timeout=5"
expect_status 200
expect_in_body '"data":{"to":"ada@example.org","amount":1.10}'
