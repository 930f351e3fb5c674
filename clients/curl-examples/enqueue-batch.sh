#!/usr/bin/env bash
# Enqueue JSON, text and bytes in one request.
. "$(dirname "$0")/lib.sh"

say "Text has a content_type, bytes are base64"
request "$GATEWAY/queues/$QUEUE/jobs/batch" -H 'Content-Type: application/json' \
  -d '{"jobs":[{"data":{"to":"ada@example.org"}},{"data":"Hello","content_type":"text/plain"},{"data_base64":"/wA="}]}'
expect_status 201
expect_in_body '"content_type":"application/octet-stream"'

say "They come in their order, each under its type"
request "$GATEWAY/queues/$QUEUE/next?timeout=5"
expect_in_body '"data":{"to":"ada@example.org"}'
request "$GATEWAY/queues/$QUEUE/next?timeout=5"
expect_in_body '"data":"Hello"'
request "$GATEWAY/queues/$QUEUE/next?timeout=5"
expect_in_body '"data_base64":"/wA="'
