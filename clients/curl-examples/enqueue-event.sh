#!/usr/bin/env bash
# Enqueue a CloudEvent, whole (structured mode) and by headers (binary mode), and take them as events.
. "$(dirname "$0")/lib.sh"

say "An event in structured mode"
request "$GATEWAY/queues/$QUEUE/jobs" -H 'Content-Type: application/cloudevents+json' \
  -d '{"specversion":"1.0","id":"17","source":"/web","type":"org.example.signup","data":{"user":"ada"}}'
expect_status 201
expect_in_body '"id":"17"'

say "The next one in binary mode: attributes in headers, the body is the data; it is dropped after an hour"
request "$GATEWAY/queues/$QUEUE/jobs?ttl=3600" -H 'ce-specversion: 1.0' -H 'ce-id: 18' -H 'ce-source: /web' \
  -H 'ce-type: org.example.login' -H 'Content-Type: application/json' -d '{"user":"ada"}'
expect_status 201
expect_in_body '"id":"18"'

say "One of a sender that reads no answer: ?receipt=none, or Prefer: return=minimal"
request "$GATEWAY/queues/$QUEUE/jobs?receipt=none" -H 'Content-Type: application/cloudevents+json' \
  -d '{"specversion":"1.0","id":"19","source":"/web","type":"org.example.signup","data":{"user":"bob"}}'
expect_status 204

say "The path of events accepts nothing else"
request "$GATEWAY/queues/$QUEUE/events" -H 'Content-Type: application/cloudevents+json' \
  -d '{"specversion":"1.0","id":"20","source":"/web","type":"org.example.signup","data":{"user":"eve"}}'
expect_status 201
request "$GATEWAY/queues/$QUEUE/events" -H 'Content-Type: application/json' -d '{"user":"eve"}'
expect_status 415

say "Take one as the stored event"
request "$GATEWAY/queues/$QUEUE/next?timeout=5" -H 'Accept: application/cloudevents+json'
expect_status 200
expect_in_body '"specversion":"1.0"'
expect_in_body '"type":"org.example.'
expect_in_body '"data":{"user":"'

say "An attribute that is wrong is named"
request "$GATEWAY/queues/$QUEUE/jobs" -H 'Content-Type: application/cloudevents+json' -d '{"specversion":"1.0","type":"t"}'
expect_status 400
expect_in_body '"code":"invalid-event"'
expect_in_body 'source'
