#!/usr/bin/env bash
# Extend: the work takes longer than the lease.
. "$(dirname "$0")/lib.sh"
given_a_lease
BEFORE=$(header Lease-Expires)

say "Another two minutes from now, please"
request "$GATEWAY/leases/$LEASE/extend" -H 'Content-Type: application/json' -d '{"lease":120}'
expect_status 200
[[ $(member expires_at) > $BEFORE ]] || fail "the lease should end later than $BEFORE"
