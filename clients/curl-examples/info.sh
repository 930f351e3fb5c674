#!/usr/bin/env bash
# Which version is this, and what may a request ask for?
. "$(dirname "$0")/lib.sh"

say "Version and limits"
request "$GATEWAY/" -H 'Accept: application/json'
expect_status 200
expect_in_body '"name":"kestrel-gateway"'
expect_in_body '"limits":{'
