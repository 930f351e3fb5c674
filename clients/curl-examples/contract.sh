#!/usr/bin/env bash
# The contract, for code generators and for reading.
. "$(dirname "$0")/lib.sh"

say "As YAML"
request "$GATEWAY/openapi.yaml"
expect_status 200
expect_in_body 'openapi: 3.1'
expect_in_body 'operationId: nextJob'

say "As JSON"
request "$GATEWAY/openapi.json"
expect_status 200
expect_in_body '"openapi":"3.1'
