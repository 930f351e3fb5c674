#!/usr/bin/env bash
# Take the next job under a lease; wait for it if there is none yet (long poll).
. "$(dirname "$0")/lib.sh"
given_a_job

say "Take it: wait up to 5 seconds for a job, then have 30 seconds to work on it"
request "$GATEWAY/queues/$QUEUE/next?timeout=5&lease=30"
expect_status 200
expect_in_body '"data":{"to":"ada@example.org"}'
expect_in_body '"attempt":1'
expect_in_body "\"id\":\"$(header Lease-Id)\""

say "Nobody else gets it in the meantime"
request "$GATEWAY/queues/$QUEUE/next?timeout=0"
expect_status 204
