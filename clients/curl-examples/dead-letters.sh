#!/usr/bin/env bash
# Dead letters: count them, show why the oldest failed, and delete them.
. "$(dirname "$0")/lib.sh"
given_a_lease
JOB=$(member id)
request -X POST "$GATEWAY/leases/$LEASE/reject" -H 'Content-Type: application/json' -d '{"reason":"no such user"}'
expect_status 204

say "How many are there?"
request "$GATEWAY/queues/$QUEUE/dead-letters"
expect_status 200
expect_in_body '"items":1'

say "The oldest, and why it is one"
request "$GATEWAY/queues/$QUEUE/dead-letters/peek"
expect_status 200
expect_in_body "\"id\":\"$JOB\""
expect_in_body '"deadreason":"rejected"'
expect_in_body '"lasterror":"no such user"'

say "Nobody will mend that: remove them for good"
request -X DELETE "$GATEWAY/queues/$QUEUE/dead-letters"
expect_status 200
expect_in_body '"deleted":1'
