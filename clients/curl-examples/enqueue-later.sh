#!/usr/bin/env bash
# Enqueue a job for later.
. "$(dirname "$0")/lib.sh"

say "Enqueue a job that is due in a second"
request "$GATEWAY/queues/$QUEUE/jobs?delay=1" -H 'Content-Type: application/json' -d '{"to":"ada@example.org"}'
expect_status 201
expect_in_body '"due_at":"'
JOB=$(member id)

say "An event says itself when it is due"
request "$GATEWAY/queues/$QUEUE-events/jobs" -H 'Content-Type: application/cloudevents+json' \
  -d '{"specversion":"1.0","id":"21","source":"/web","type":"org.example.reminder","notbefore":"'"$(date -u -d '+1 day' +%FT%TZ)"'"}'
expect_status 201
expect_in_body '"due_at":"'

say "Nobody gets it before"
request "$GATEWAY/queues/$QUEUE/next?timeout=0"
expect_status 204

say "Then it is there"
request "$GATEWAY/queues/$QUEUE/next?timeout=10"
expect_status 200
expect_in_body "\"id\":\"$JOB\""

say "A job that would expire before it is due is refused"
request "$GATEWAY/queues/$QUEUE/jobs?delay=60&ttl=30" -H 'Content-Type: application/json' -d '{}'
expect_status 400
expect_in_body '"code":"delay-beyond-expiry"'
