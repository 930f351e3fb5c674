#!/usr/bin/env bash
# Nack: the work failed; give the job back for another attempt.
. "$(dirname "$0")/lib.sh"
given_a_lease
JOB=$(member id)
given_a_job '{"to":"bob@example.org"}'

say "It did not work out: give the job back, behind the others"
request -X POST "$GATEWAY/leases/$LEASE/nack" -H 'Content-Type: application/json' -d '{"reason":"mail server down"}'
expect_status 204

say "The other job comes first; with several Kestrel servers it may come second"
request "$GATEWAY/queues/$QUEUE/next?timeout=5"
expect_status 200
if [ "$(member id)" != "$JOB" ]; then
  say "The same job comes again, as a second attempt"
  request "$GATEWAY/queues/$QUEUE/next?timeout=5"
  expect_status 200
fi
expect_in_body "\"id\":\"$JOB\""
expect_in_body '"attempt":2'
expect_in_body '"lasterror":"mail server down"'
LEASE=$(header Lease-Id)

say "Give it back before all others"
request -X POST "$GATEWAY/leases/$LEASE/nack" -H 'Content-Type: application/json' -d '{"position":"head"}'
expect_status 204
