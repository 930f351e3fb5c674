#!/usr/bin/env bash
# Next from several queues: a job of the first named queue that has one.
. "$(dirname "$0")/lib.sh"
given_a_job '{"number":1}'
HIGH=$QUEUE-high
trap 'curl -s -o /dev/null --max-time 5 -X DELETE "$GATEWAY/queues/$QUEUE" || true; curl -s -o /dev/null --max-time 5 -X DELETE "$GATEWAY/queues/$HIGH" || true; rm -rf "$FILES"' EXIT
request "$GATEWAY/queues/$HIGH/jobs" -H 'Content-Type: application/json' -d '{"number":2}'
expect_status 201

say "Both queues have a job; the one that is named first is served first"
request "$GATEWAY/next?queue=$HIGH&queue=$QUEUE&timeout=5&ack=auto"
expect_status 200
expect_in_body '"number":2'
[ "$(header Queue-Name)" = "$HIGH" ] || fail "the answer should name the queue in Queue-Name"

say "The same as a POST, for clients that send parameters in the body"
request "$GATEWAY/next" -H 'Content-Type: application/json' -d "{\"queues\":[\"$HIGH\",\"$QUEUE\"],\"timeout\":5}"
expect_status 200
expect_in_body '"number":1'
expect_in_body "\"queue\":\"$QUEUE\""
