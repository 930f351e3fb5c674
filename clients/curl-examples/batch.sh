#!/usr/bin/env bash
# Take many jobs under one lease, settle each in a way of its own, and ack a batch with the request for the next one.
. "$(dirname "$0")/lib.sh"
given_a_job
given_a_job
given_a_job

say "Take up to 100 jobs; the answer comes as soon as there is one"
request "$GATEWAY/queues/$QUEUE/next?max=100&timeout=5"
expect_status 200
expect_in_body '"jobs":[{'
LEASE=$(header Lease-Id)

# As many as are ready; from a Kestrel server one, unless --kestrel-open-reads allows more.
JOBS=$(grep -o '"attempt":' "$FILES/body" | wc -l)
LAST=$((JOBS - 1))

say "The last job failed and is retried in a minute; all others are done"
request "$GATEWAY/leases/$LEASE/settle" -H 'Content-Type: application/json' -d "{\"rest\":\"ack\",\"nacks\":[{\"job\":$LAST,\"delay\":60}]}"
expect_status 200
expect_in_body "\"job\":$LAST,"

given_a_job
given_a_job
say "Ack only the first job of a batch, as a checkpoint"
request "$GATEWAY/queues/$QUEUE/next?max=100&timeout=5"
expect_status 200
LEASE=$(header Lease-Id)
request "$GATEWAY/leases/$LEASE/ack" -H 'Content-Type: application/json' -d '{"upto":1}'
expect_status 204

say "Ack the rest with the request for the next batch, until no job is ready"
STATUS=200
while [ "$STATUS" != 204 ]; do
  request "$GATEWAY/queues/$QUEUE/next?max=100&timeout=0&ack=$LEASE"
  [ "$(header Lease-Acked)" = true ] || fail "the answer should carry Lease-Acked: true"
  [ "$STATUS" = 204 ] || expect_status 200
  LEASE=$(header Lease-Id)
done
