#!/usr/bin/env bash
# Pause: no job is delivered until the pause ends.
. "$(dirname "$0")/lib.sh"
given_a_job

say "Pause the queue"
request -X PUT "$GATEWAY/queues/$QUEUE/pause" -H 'Content-Type: application/json' -d '{"reason":"maintenance"}'
expect_status 200
expect_in_body '"paused":true'

say "Its jobs stay where they are"
request "$GATEWAY/queues/$QUEUE/next?timeout=0"
expect_status 204
[ "$(header Queue-Paused)" = true ] || fail "the answer should carry Queue-Paused"

say "End the pause"
request -X DELETE "$GATEWAY/queues/$QUEUE/pause"
expect_status 200
expect_in_body '"paused":false'
request "$GATEWAY/queues/$QUEUE/next?timeout=5"
expect_status 200
