#!/usr/bin/env bash
# Queue details: who holds its jobs, and which policy applies.
. "$(dirname "$0")/lib.sh"
given_a_job

say "Take the job"
request "$GATEWAY/queues/$QUEUE/next?timeout=5"
expect_status 200

say "List the open leases"
request "$GATEWAY/queues/$QUEUE/leases"
expect_status 200
expect_in_body '"state":"held"'

say "Show the policy"
request "$GATEWAY/queues/$QUEUE/policy"
expect_status 200
expect_in_body '"max_attempts"'
