#!/usr/bin/env bash
# Redrive: the cause is repaired, so the dead letters become jobs again.
. "$(dirname "$0")/lib.sh"
given_a_lease
JOB=$(member id)
request -X POST "$GATEWAY/leases/$LEASE/reject" -H 'Content-Type: application/json' -d '{"reason":"no such user"}'
expect_status 204

say "The user is there now: bring the dead letters back"
request -X POST "$GATEWAY/queues/$QUEUE/redrive"
expect_status 200
expect_in_body '"redriven":1'
expect_in_body '"left":0'

say "The job is a first attempt again, and still says what was wrong"
request "$GATEWAY/queues/$QUEUE/next?timeout=5"
expect_status 200
expect_in_body "\"id\":\"$JOB\""
expect_in_body '"attempt":1'
expect_in_body '"lasterror":"no such user"'
