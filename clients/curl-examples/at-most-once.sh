#!/usr/bin/env bash
# At most once: the job is acked before it is delivered.
. "$(dirname "$0")/lib.sh"
given_a_job '{"number":1}'
given_a_job '{"number":2}'

say "Deliver the job once or never"
request "$GATEWAY/queues/$QUEUE/next?timeout=5&ack=auto"
expect_status 200
expect_in_body '"number":'
[ "$(header Lease-Acked)" = true ] || fail "the answer should carry Lease-Acked: true"

say "The job is gone: only the other one is left"
request "$GATEWAY/queues/$QUEUE"
expect_in_body '"backlog":1,'
