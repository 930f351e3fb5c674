#!/usr/bin/env bash
# Nack: the work failed, the next consumer gets the job at once.
. "$(dirname "$0")/lib.sh"
given_a_lease
JOB=$(member id)

say "It did not work out: give the job back"
request -X POST "$GATEWAY/leases/$LEASE/nack" -H 'Content-Type: application/json' -d '{"position":"head"}'
expect_status 204

say "The same job comes again, as a second attempt"
request "$GATEWAY/queues/$QUEUE/next?timeout=5"
expect_status 200
expect_in_body "\"id\":\"$JOB\""
expect_in_body '"attempt":2'
