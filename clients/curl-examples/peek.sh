#!/usr/bin/env bash
# Peek: look at the job at the head, leave it where it is.
. "$(dirname "$0")/lib.sh"
given_a_job

say "Look at it, and look again"
for _ in 1 2; do
  request "$GATEWAY/queues/$QUEUE/peek"
  expect_status 200
  expect_in_body '"data":{"to":"ada@example.org"}'
done
[ -z "$(header Lease-Id)" ] || fail "a peek should take no lease"

say "Nothing to see on a queue that does not exist"
request "$GATEWAY/queues/$QUEUE-unknown/peek"
expect_status 404
