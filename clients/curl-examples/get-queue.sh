#!/usr/bin/env bash
# One queue's figures.
. "$(dirname "$0")/lib.sh"
given_a_job

say "How many jobs wait?"
request "$GATEWAY/queues/$QUEUE"
expect_status 200
expect_in_body '"items":1,'

say "Asking about an unknown queue creates none"
request "$GATEWAY/queues/$QUEUE-unknown"
expect_status 404
expect_in_body '"code":"queue-not-found"'

say "An autoscaler reads the backlog, and zero for a queue that does not exist yet"
request "$GATEWAY/queues/$QUEUE-unknown?missing=zero"
expect_status 200
expect_in_body '"backlog":0,'
