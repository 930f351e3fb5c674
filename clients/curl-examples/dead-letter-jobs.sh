#!/usr/bin/env bash
# Dead letters one by one: list them, move one back, delete the other one.
. "$(dirname "$0")/lib.sh"
given_a_lease
FIRST=$(member id)
request -X POST "$GATEWAY/leases/$LEASE/reject" -H 'Content-Type: application/json' -d '{"reason":"no such user"}'
expect_status 204
given_a_lease
SECOND=$(member id)
request -X POST "$GATEWAY/leases/$LEASE/reject" -H 'Content-Type: application/json' -d '{"reason":"mailbox full"}'
expect_status 204

say "The oldest dead letters, and why each job failed"
request "$GATEWAY/queues/$QUEUE/dead-letters/jobs?max=100"
expect_status 200
expect_in_body '"error":"no such user"'
expect_in_body '"error":"mailbox full"'
expect_in_body '"left":0'

say "Try the second one again"
request -X POST "$GATEWAY/queues/$QUEUE/dead-letters/jobs/$SECOND/redrive"
expect_status 200
expect_in_body '"redriven":1'

say "Delete the first one; a second time it is unknown"
request -X DELETE "$GATEWAY/queues/$QUEUE/dead-letters/jobs/$FIRST"
expect_status 204
request -X DELETE "$GATEWAY/queues/$QUEUE/dead-letters/jobs/$FIRST"
expect_status 404
expect_in_body '"code":"dead-letter-not-found"'

say "The job that was moved is a first attempt"
request "$GATEWAY/queues/$QUEUE/next?timeout=5"
expect_status 200
expect_in_body "\"id\":\"$SECOND\""
expect_in_body '"attempt":1'
