#!/usr/bin/env bash
# An empty queue: 204 when the wait is over, at once with timeout=0.
. "$(dirname "$0")/lib.sh"

say "Is there a job right now?"
request "$GATEWAY/queues/$QUEUE/next?timeout=0"
expect_status 204

say "Is there one within a second?"
request "$GATEWAY/queues/$QUEUE/next?timeout=1"
expect_status 204
