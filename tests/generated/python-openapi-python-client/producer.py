"""Enqueues jobs with the client that openapi-python-client makes: producer.py URL QUEUE KEY COUNT."""

import base64
import sys

from kestrel_gateway import AuthenticatedClient
from kestrel_gateway.api.jobs import enqueue_job, enqueue_jobs
from kestrel_gateway.models import EnqueueRequest, JobToEnqueue, Problem, ProblemCode, Receipt

url, queue, key, count = sys.argv[1:]

with AuthenticatedClient(base_url=url, token=key) as client:
    receipt = enqueue_job.sync(queue, client=client, body={"to": "ada@example.org", "n": 1})
    assert isinstance(receipt, Receipt) and receipt.id and receipt.queue == queue, receipt

    text = JobToEnqueue(content_type="text/plain", data="Grüße an Ada")
    image = JobToEnqueue(content_type="image/png", data_base64=base64.b64encode(bytes(range(256))).decode())
    receipt = enqueue_jobs.sync(queue, client=client, body=EnqueueRequest(jobs=[text, image]))
    assert isinstance(receipt, Receipt) and receipt.results, receipt
    assert [result.status for result in receipt.results] == [201, 201], receipt

    # The same request sent twice is stored once.
    first = enqueue_job.sync(f"{queue}-once", client=client, body={"n": 1}, idempotency_key="order-1")
    again = enqueue_job.sync(f"{queue}-once", client=client, body={"n": 1}, idempotency_key="order-1")
    assert isinstance(first, Receipt) and isinstance(again, Receipt) and first.id == again.id, (first, again)
    problem = enqueue_job.sync(f"{queue}-once", client=client, body={"n": 2}, idempotency_key="order-1")
    assert isinstance(problem, Problem) and problem.code == ProblemCode.IDEMPOTENCY_KEY_REUSED, problem

    for n in range(int(count)):
        receipt = enqueue_job.sync(f"{queue}-many", client=client, body={"n": n})
        assert isinstance(receipt, Receipt), receipt
