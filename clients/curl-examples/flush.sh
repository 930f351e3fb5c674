#!/usr/bin/env bash
# Flush: remove every waiting job.
. "$(dirname "$0")/lib.sh"
given_a_job
given_a_job

say "Remove them"
request -X POST "$GATEWAY/queues/$QUEUE/flush"
expect_status 204

say "Nothing is left"
request "$GATEWAY/queues/$QUEUE/next?timeout=0"
expect_status 204
