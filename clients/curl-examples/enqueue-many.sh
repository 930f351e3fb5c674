#!/usr/bin/env bash
# Enqueue many jobs in one request: one line of JSON each.
. "$(dirname "$0")/lib.sh"

say "Three lines, one of them broken: 207, and one result a line"
request "$GATEWAY/queues/$QUEUE/jobs" -H 'Content-Type: application/x-ndjson' \
  --data-binary $'{"to":"ada@example.org"}\n{"to":\n{"to":"bob@example.org"}\n'
expect_status 207
expect_in_body '"status":201'
expect_in_body '"code":"invalid-body"'

say "The good ones are stored, in their order"
request "$GATEWAY/queues/$QUEUE/next?timeout=5"
expect_in_body '"data":{"to":"ada@example.org"}'
request "$GATEWAY/queues/$QUEUE/next?timeout=5"
expect_in_body '"data":{"to":"bob@example.org"}'
