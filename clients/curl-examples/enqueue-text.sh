#!/usr/bin/env bash
# Enqueue plain text.
. "$(dirname "$0")/lib.sh"

say "Enqueue a line of text"
request "$GATEWAY/queues/$QUEUE/jobs" -H 'Content-Type: text/plain; charset=utf-8' --data-binary 'Grüße, 世界'
expect_status 201

say "It comes back as a string, with its type"
request "$GATEWAY/queues/$QUEUE/next?timeout=5"
expect_status 200
expect_in_body '"content_type":"text/plain; charset=utf-8"'
expect_in_body '"data":"Grüße, 世界"'
