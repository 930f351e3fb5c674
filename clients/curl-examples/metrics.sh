#!/usr/bin/env bash
# Figures for Prometheus: what every worker has counted.
. "$(dirname "$0")/lib.sh"
given_a_lease

say "Every metric, of all workers"
request "$GATEWAY/metrics"
expect_status 200
expect_in_body 'kestrel_gateway_leases_settled_total{outcome="acked",worker="0"}'

say "The ledger of leases"
grep '^kestrel_gateway_leases_' "$FILES/body"
