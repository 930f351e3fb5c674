"""Enqueues jobs with the client that openapi-generator makes: producer.py URL QUEUE KEY COUNT."""

import base64
import sys

from kestrel_gateway import ApiClient, ApiException, Configuration, EnqueueRequest, JobsApi, JobToEnqueue

url, queue, key, count = sys.argv[1:]
jobs = JobsApi(ApiClient(Configuration(host=url, access_token=key)))

receipt = jobs.enqueue_job(queue, {"to": "ada@example.org", "n": 1})
assert receipt.id and receipt.queue == queue, receipt

text = JobToEnqueue(content_type="text/plain", data="Grüße an Ada")
image = JobToEnqueue(content_type="image/png", data_base64=base64.b64encode(bytes(range(256))).decode())
receipt = jobs.enqueue_jobs(queue, EnqueueRequest(jobs=[text, image]))
assert receipt.results and [result.status for result in receipt.results] == [201, 201], receipt

# The same request sent twice is stored once.
first = jobs.enqueue_job(f"{queue}-once", {"n": 1}, idempotency_key="order-1")
again = jobs.enqueue_job(f"{queue}-once", {"n": 1}, idempotency_key="order-1")
assert first.id == again.id, (first, again)
try:
    jobs.enqueue_job(f"{queue}-once", {"n": 2}, idempotency_key="order-1")
    sys.exit("the key was accepted with another body")
except ApiException as error:
    assert error.data and error.data.code == "idempotency-key-reused", error

for n in range(int(count)):
    jobs.enqueue_job(f"{queue}-many", {"n": n})
