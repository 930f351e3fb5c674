#!/usr/bin/env bash
# Delete: the queue with all its jobs, the leased ones included.
. "$(dirname "$0")/lib.sh"
given_a_job
given_a_lease

say "Away with it"
request -X DELETE "$GATEWAY/queues/$QUEUE"
expect_status 200
expect_in_body '"leases_ended":1'

say "The queue is gone, and so is the lease"
request "$GATEWAY/queues/$QUEUE"
expect_status 404
request -X POST "$GATEWAY/leases/$LEASE/ack"
expect_status 410
expect_in_body '"code":"queue-deleted"'
