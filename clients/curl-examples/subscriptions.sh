#!/usr/bin/env bash
# Subscriptions: several consumers each get a copy of every job of a queue.
. "$(dirname "$0")/lib.sh"

say "Create two subscriptions"
for CHILD in audit mail; do
  request -X PUT "$GATEWAY/queues/$QUEUE/subscriptions/$CHILD"
  expect_status 201
done

given_a_job
JOB=$(member id)

say "Each subscription has a copy"
request "$GATEWAY/queues/$QUEUE/subscriptions"
expect_status 200
expect_in_body "\"name\":\"$QUEUE+audit\""
expect_in_body "\"name\":\"$QUEUE+mail\""
request "$GATEWAY/queues/$QUEUE/subscriptions/mail"
expect_status 200
expect_in_body '"items":1'

say "Its jobs are read like those of a queue"
request "$GATEWAY/queues/$QUEUE+audit/next?timeout=5&lease_seconds=30"
expect_status 200
expect_in_body "\"id\":\"$JOB\""
request -X POST "$GATEWAY/leases/$(header Lease-Id)/ack"
expect_status 204

say "Where a client or a proxy does not keep the +"
request "$GATEWAY/queues/$QUEUE/subscriptions/mail/next?timeout=5&lease_seconds=30"
expect_status 200
expect_in_body "\"id\":\"$JOB\""
request -X POST "$GATEWAY/leases/$(header Lease-Id)/ack"
expect_status 204

say "Delete the subscriptions"
for CHILD in audit mail; do
  request -X DELETE "$GATEWAY/queues/$QUEUE/subscriptions/$CHILD"
  expect_status 200
done
