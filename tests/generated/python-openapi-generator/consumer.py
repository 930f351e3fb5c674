"""Takes and settles jobs with the client that openapi-generator makes: consumer.py URL QUEUE KEY COUNT."""

import base64
import sys

from kestrel_gateway import (
    ApiClient,
    ApiException,
    Configuration,
    ExtendRequest,
    JobsApi,
    LeaseRequest,
    LeasesApi,
    NackRequest,
    QueuesApi,
    RejectRequest,
    SettleRequest,
)

url, queue, key, count = sys.argv[1:]
client = ApiClient(Configuration(host=url, access_token=key))
jobs, leases = JobsApi(client), LeasesApi(client)

# A job of JSON, and ack.
taken = jobs.lease_jobs(queue, LeaseRequest(timeout=20))
assert taken.jobs[0].data == {"to": "ada@example.org", "n": 1} and taken.jobs[0].attempt == 1, taken
assert taken.lease
leases.ack_lease(taken.lease.id)

# A job of text, then ack it and take the next one in one request: bytes.
text = jobs.next_job(queue, timeout=20)
assert (text.data, text.content_type) == ("Grüße an Ada", "text/plain"), text
image = jobs.next_job(queue, timeout=20, ack=text.lease.id)
assert image.content_type == "image/png" and image.data_base64
assert base64.b64decode(image.data_base64) == bytes(range(256)), image

# Give it back for a second: until then the queue is empty. It comes back as its second attempt.
position = leases.nack_lease(image.lease.id, NackRequest(delay=1, reason="the disk is full"))
assert position.position == "tail" and position.due_at, position
assert jobs.lease_jobs(queue, LeaseRequest(timeout=0)).jobs == []
taken = jobs.lease_jobs(queue, LeaseRequest(timeout=20, lease_seconds=30))
assert taken.jobs[0].id == image.id and taken.jobs[0].attempt == 2, taken
assert taken.lease
extended = leases.extend_lease(taken.lease.id, ExtendRequest(lease_seconds=120))
assert extended.expires_at > taken.lease.expires_at, extended
leases.reject_lease(taken.lease.id, RejectRequest(reason="not an image"))
assert QueuesApi(client).get_dead_letters(queue).items == 1

# What is settled cannot be settled in another way.
try:
    leases.ack_lease(taken.lease.id)
    sys.exit("a rejected job was acked")
except ApiException as error:
    assert error.data and error.data.code == "lease-settled", error

# Many jobs, settled in tens.
numbers: list[int] = []
held: list[str] = []
while len(numbers) < int(count):
    taken = jobs.lease_jobs(f"{queue}-many", LeaseRequest(timeout=20))
    assert taken.lease, "no job came"
    numbers += [job.data["n"] for job in taken.jobs if job.data]
    held.append(taken.lease.id)
    if len(held) == 10:
        settled = leases.settle_leases(SettleRequest(acks=held))
        assert all(result.status == 204 for result in settled.results), settled
        held = []
assert sorted(numbers) == list(range(int(count)))

# Nothing is left. The request that was sent twice has stored one job. A nack needs no body.
assert jobs.lease_jobs(f"{queue}-many", LeaseRequest(timeout=0)).jobs == []
once = jobs.next_job(f"{queue}-once")
leases.nack_lease(once.lease.id)
once = jobs.next_job(f"{queue}-once", timeout=20)
assert once.attempt == 2, once
assert jobs.next_job(f"{queue}-once", ack=once.lease.id, timeout=0) is None
