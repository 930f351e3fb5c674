#!/usr/bin/env bash
# Reject: the job cannot be done; it goes to the dead letters.
. "$(dirname "$0")/lib.sh"
given_a_lease

say "No use in trying again"
request -X POST "$GATEWAY/leases/$LEASE/reject" -H 'Content-Type: application/json' -d '{"reason":"no such user"}'
expect_status 204

say "It is not on its queue any more"
request "$GATEWAY/queues/$QUEUE/next?timeout=0"
expect_status 204

say "The lease knows where it went"
request "$GATEWAY/leases/$LEASE"
expect_status 200
expect_in_body '"state":"rejected"'
expect_in_body '"position":"dead"'
