"""Takes and settles jobs with the client that openapi-python-client makes: consumer.py URL QUEUE KEY COUNT."""

import base64
import sys

import httpx
from kestrel_gateway import AuthenticatedClient
from kestrel_gateway.api.jobs import lease_jobs, next_job
from kestrel_gateway.api.leases import ack_lease, extend_lease, nack_lease, reject_lease, settle_leases
from kestrel_gateway.api.queues import get_dead_letters
from kestrel_gateway.models import (
    DeadLetters,
    Delivery,
    ExtendRequest,
    Job,
    Lease,
    LeasedJobs,
    LeaseHandle,
    LeaseRequest,
    NackRequest,
    Position,
    Problem,
    ProblemCode,
    RejectRequest,
    SettleRequest,
    SettleResults,
)

url, queue, key, count = sys.argv[1:]
# Longer than the longest wait of a request.
client = AuthenticatedClient(base_url=url, token=key, timeout=httpx.Timeout(30))


def take(queue: str, lease_seconds: float = 60) -> tuple[Job, LeaseHandle]:
    """The next job of a queue and its lease."""
    body = LeaseRequest(timeout=20, lease_seconds=lease_seconds)
    taken = lease_jobs.sync(queue, client=client, body=body)
    assert isinstance(taken, LeasedJobs) and taken.lease, taken
    return taken.jobs[0], taken.lease


def empty(queue: str) -> bool:
    """Whether no job is ready."""
    taken = lease_jobs.sync(queue, client=client, body=LeaseRequest(timeout=0))
    assert isinstance(taken, LeasedJobs), taken
    return not taken.jobs


# A job of JSON, and ack.
job, lease = take(queue)
assert job.data == {"to": "ada@example.org", "n": 1} and job.attempt == 1, job
assert ack_lease.sync(lease.id, client=client) is None

# A job of text, then ack it and take the next one in one request: bytes.
text = next_job.sync(queue, client=client, timeout=20)
assert isinstance(text, Delivery) and (text.data, text.content_type) == ("Grüße an Ada", "text/plain"), text
image = next_job.sync(queue, client=client, timeout=20, ack=text.lease.id)
assert isinstance(image, Delivery) and image.content_type == "image/png" and image.data_base64, image
assert base64.b64decode(image.data_base64) == bytes(range(256)), image

# Give it back for a second: until then the queue is empty. It comes back as its second attempt.
position = nack_lease.sync(image.lease.id, client=client, body=NackRequest(delay=1, reason="the disk is full"))
assert isinstance(position, Position) and position.position == "tail" and position.due_at, position
assert empty(queue)
job, lease = take(queue, lease_seconds=30)
assert job.id == image.id and job.attempt == 2, job
extended = extend_lease.sync(lease.id, client=client, body=ExtendRequest(lease_seconds=120))
assert isinstance(extended, Lease) and extended.expires_at > lease.expires_at, extended
assert not isinstance(reject_lease.sync(lease.id, client=client, body=RejectRequest(reason="not an image")), Problem)
letters = get_dead_letters.sync(queue, client=client)
assert isinstance(letters, DeadLetters) and letters.items == 1, letters

# What is settled cannot be settled in another way.
problem = ack_lease.sync(lease.id, client=client)
assert isinstance(problem, Problem) and problem.code == ProblemCode.LEASE_SETTLED, problem

# Many jobs, settled in tens.
numbers: list[int] = []
held: list[str] = []
while len(numbers) < int(count):
    job, lease = take(f"{queue}-many")
    assert job.data
    numbers.append(job.data["n"])
    held.append(lease.id)
    if len(held) == 10:
        settled = settle_leases.sync(client=client, body=SettleRequest(acks=held))
        assert isinstance(settled, SettleResults) and all(result.status == 204 for result in settled.results), settled
        held = []
assert sorted(numbers) == list(range(int(count)))

# Nothing is left. The request that was sent twice has stored one job. A nack needs no body.
assert empty(f"{queue}-many")
once = next_job.sync(f"{queue}-once", client=client)
assert isinstance(once, Delivery), once
assert not isinstance(nack_lease.sync(once.lease.id, client=client), Problem)
once = next_job.sync(f"{queue}-once", client=client, timeout=20)
assert isinstance(once, Delivery) and once.attempt == 2, once
assert next_job.sync(f"{queue}-once", client=client, ack=once.lease.id, timeout=0) is None
