#!/usr/bin/env bash
# Settle: many leases in one request, with one result each.
. "$(dirname "$0")/lib.sh"
given_a_lease
DONE=$LEASE
given_a_lease
FAILED=$LEASE

say "One job is done, one is not"
request -X POST "$GATEWAY/leases/settle" -H 'Content-Type: application/json' \
  -d "{\"acks\":[\"$DONE\"],\"nacks\":[{\"lease\":\"$FAILED\"}]}"
expect_status 200
expect_in_body "{\"lease\":\"$DONE\",\"status\":204}"
expect_in_body "{\"lease\":\"$FAILED\",\"status\":204}"

say "Where some cannot be settled, the others are: 207, and each tells"
request -X POST "$GATEWAY/leases/settle" -H 'Content-Type: application/json' -d "{\"acks\":[\"$DONE\",\"$FAILED\"]}"
expect_status 207
expect_in_body "{\"lease\":\"$DONE\",\"status\":204}"
expect_in_body '"status":409,"code":"lease-settled"'
