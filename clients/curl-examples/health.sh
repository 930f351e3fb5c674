#!/usr/bin/env bash
# Is it alive, and can it serve?
. "$(dirname "$0")/lib.sh"

say "Alive: the process answers"
request "$GATEWAY/livez"
expect_status 200
expect_in_body '"status":"alive"'

say "Ready: it reaches a Kestrel server and is not shutting down"
request "$GATEWAY/readyz"
expect_status 200
expect_in_body '"status":"ready"'
