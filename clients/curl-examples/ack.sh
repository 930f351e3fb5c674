#!/usr/bin/env bash
# Ack: the work is done, the job is gone for good.
. "$(dirname "$0")/lib.sh"
given_a_lease

say "The work is done"
request -X POST "$GATEWAY/leases/$LEASE/ack"
expect_status 204

say "The answer got lost on the way? Say it again"
request -X POST "$GATEWAY/leases/$LEASE/ack"
expect_status 204

say "What is acked cannot be given back"
request -X POST "$GATEWAY/leases/$LEASE/nack"
expect_status 409
expect_in_body '"code":"lease-settled"'
