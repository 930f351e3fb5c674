#!/usr/bin/env bash
# The Kestrel servers behind the gateway, and the status of one of them.
. "$(dirname "$0")/lib.sh"

say "All servers"
request "$GATEWAY/backends"
expect_status 200
expect_in_body '"server":"'
SERVER=$(member server)

say "In service: readonly accepts no new jobs, quiescent does not deliver jobs either"
request -X PUT "$GATEWAY/backends/$SERVER/status" -H 'Content-Type: application/json' -d '{"status":"up"}'
expect_status 200
expect_in_body "\"server\":\"$SERVER\""
