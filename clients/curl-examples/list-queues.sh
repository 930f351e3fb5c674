#!/usr/bin/env bash
# List the queues with their figures.
. "$(dirname "$0")/lib.sh"
given_a_job

say "Every queue, by name"
request "$GATEWAY/queues"
expect_status 200
expect_in_body "\"queue\":\"$QUEUE\""
