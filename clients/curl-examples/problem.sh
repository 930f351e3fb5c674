#!/usr/bin/env bash
# Errors: application/problem+json with a code for programs and a sentence for people.
. "$(dirname "$0")/lib.sh"

say "A name that no queue may have"
request "$GATEWAY/queues/a%20b/jobs" -d 'hello'
expect_status 400
[ "$(header Content-Type)" = application/problem+json ] || fail "an error should be application/problem+json"
expect_in_body '"code":"invalid-name"'

say "A wait that is no number of seconds"
request "$GATEWAY/queues/$QUEUE/next?timeout=soon"
expect_status 400
expect_in_body '"code":"invalid-parameter"'

say "What a code means, for people and programs"
request "$GATEWAY/problems/queue-full"
expect_status 200
expect_in_body '"status":503'
