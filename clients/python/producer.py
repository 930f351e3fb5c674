"""Enqueues jobs: reads them from standard input, a line of JSON each, and prints their ids. Needs httpx.

    pip install httpx
    echo '{"to": "ada@example.org"}' | QUEUE=emails python producer.py

It ends with exit code 1 at the first job that cannot be stored.
"""

import sys
import uuid

import gateway

GIVE_UP_S = 120


def enqueue(job: bytes) -> str:
    """Stores a job, given as JSON, and returns its id. Raises gateway.Failed."""
    headers = {
        "Content-Type": "application/json",
        # One key for all tries of this job. If it was stored and the answer got lost, the next try gets that answer.
        "Idempotency-Key": str(uuid.uuid4()),
    }
    return gateway.call("POST", f"{gateway.QUEUE_PATH}/jobs", content=job, headers=headers, give_up_s=GIVE_UP_S)["id"]


for number, line in enumerate(sys.stdin.buffer, 1):
    try:
        print(enqueue(line), flush=True)
    except gateway.Failed as failed:
        sys.exit(f"line {number} is not enqueued: {failed}")
