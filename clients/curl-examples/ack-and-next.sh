#!/usr/bin/env bash
# Ack and next: one request a job.
. "$(dirname "$0")/lib.sh"
given_a_job '{"number":1}'
given_a_job '{"number":2}'
request "$GATEWAY/queues/$QUEUE/next?timeout=5"
expect_status 200
FIRST=$(member id)
LEASE=$(header Lease-Id)

say "The job is done, the next one please"
request "$GATEWAY/queues/$QUEUE/next?timeout=5&ack=$LEASE"
expect_status 200
[ "$(member id)" != "$FIRST" ] || fail "the second job should come"
[ "$(header Lease-Acked)" = true ] || fail "the answer should carry Lease-Acked: true"
NEXT=$(header Lease-Id)

say "No job came? The ack counts all the same"
request "$GATEWAY/queues/$QUEUE/next?timeout=0&ack=$NEXT"
expect_status 204
[ "$(header Lease-Acked)" = true ] || fail "the answer should carry Lease-Acked: true"

say "An ack that fails is the answer, and no job is taken"
given_a_job '{"number":3}'
request "$GATEWAY/queues/$QUEUE/next?timeout=0&ack=${NEXT:0:50}xxxxxx"
expect_status 404
expect_in_body '"code":"lease-not-found"'
request "$GATEWAY/queues/$QUEUE/peek"
expect_in_body '"number":3'
