#!/usr/bin/env bash
# Inspect: what is known of a lease.
. "$(dirname "$0")/lib.sh"
given_a_lease

say "The consumer holds it"
request "$GATEWAY/leases/$LEASE"
expect_status 200
expect_in_body '"state":"held"'

say "Once acked, that is remembered for a while"
request -X POST "$GATEWAY/leases/$LEASE/ack"
expect_status 204
request "$GATEWAY/leases/$LEASE"
expect_status 200
expect_in_body '"state":"acked"'
