#!/usr/bin/env bash
# Take jobs under one lease with a request in JSON; every answer has a body.
. "$(dirname "$0")/lib.sh"
given_a_job

say "Take it: wait up to 5 seconds for a job, then have 30 seconds to work on it"
request "$GATEWAY/queues/$QUEUE/leases" -H 'Content-Type: application/json' -d '{"timeout":5,"lease_seconds":30}'
expect_status 200
expect_in_body '"data":{"to":"ada@example.org"}'
expect_in_body '"lease":{"id":"'
LEASE=$(grep -o '"lease":{"id":"[^"]*"' "$FILES/body" | cut -d '"' -f 6)

say "Ack it, and take the next one: no job is ready, so there is no lease"
request "$GATEWAY/queues/$QUEUE/leases" -H 'Content-Type: application/json' -d "{\"timeout\":0,\"ack\":\"$LEASE\"}"
expect_status 200
expect_in_body '{"jobs":[]}'
[ "$(header Lease-Acked)" = true ] || fail "the answer should carry Lease-Acked: true"
