#!/usr/bin/env bash
# Enqueue a binary file. --data-binary sends it byte for byte (-d would drop its line breaks).
. "$(dirname "$0")/lib.sh"

head -c 65536 /dev/urandom >"$FILES/photo.bin"

say "Enqueue a file of 64 KiB"
request "$GATEWAY/queues/$QUEUE/jobs" -H 'Content-Type: application/octet-stream' --data-binary "@$FILES/photo.bin"
expect_status 201

say "It comes back as base64 and is the same file"
request "$GATEWAY/queues/$QUEUE/next?timeout=5"
expect_status 200
member data_base64 | base64 -d | cmp - "$FILES/photo.bin" || fail "the bytes should be those of the file"
