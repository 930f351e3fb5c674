#!/usr/bin/env bash
# The handshake of webhooks: may a sender of events deliver to this queue?
. "$(dirname "$0")/lib.sh"

say "The path of jobs, and the path that accepts only events"
request -X OPTIONS "$GATEWAY/queues/$QUEUE/jobs"
expect_status 200
[ "$(header Allow)" = 'OPTIONS, POST' ] || fail "the answer should carry Allow: OPTIONS, POST"
request -X OPTIONS "$GATEWAY/queues/$QUEUE/events"
expect_status 200

say "A sender is allowed if it is in --webhook-origins of the gateway"
request -X OPTIONS "$GATEWAY/queues/$QUEUE/events" -H 'WebHook-Request-Origin: events.example.org'
if [ "$STATUS" = 200 ]; then
  [ -n "$(header WebHook-Allowed-Origin)" ] || fail "the answer should carry WebHook-Allowed-Origin"
else
  expect_status 403
  expect_in_body '"code":"forbidden-origin"'
fi
