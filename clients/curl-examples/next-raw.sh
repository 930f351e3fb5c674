#!/usr/bin/env bash
# Take a job as its own bytes: what a shell script wants to pipe into the program that does the work.
. "$(dirname "$0")/lib.sh"

say "A job that is an image"
request "$GATEWAY/queues/$QUEUE/jobs" -H 'Content-Type: image/gif' --data-binary 'GIF89a'
expect_status 201

say "Its own bytes and type; lease and metadata are in the headers"
request "$GATEWAY/queues/$QUEUE/next?timeout=5&format=raw"
expect_status 200
[ "$(cat "$FILES/body")" = GIF89a ] || fail "the body should be the job's own bytes"
[ "$(header Content-Type)" = image/gif ] || fail "the type should be the job's own"
[ "$(header ce-attempt)" = 1 ] || fail "it should be the first attempt"

say "Done"
request -X POST "$GATEWAY/leases/$(header Lease-Id)/ack"
expect_status 204
