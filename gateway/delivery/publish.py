"""Enqueue: a body becomes an item on a Kestrel queue."""

from __future__ import annotations

import time

from gateway.contract.envelope import new_id, wrap
from gateway.delivery.backend import Backend
from gateway.delivery.catalog import Queue
from gateway.delivery.quota import Quota


class Publisher:
    """Stores jobs."""

    def __init__(self, backend: Backend, quota: Quota) -> None:
        self._backend = backend
        self._quota = quota

    async def enqueue(self, queue: Queue, body: bytes, content_type: str | None) -> str:
        """The new job's id, once Kestrel has said STORED.

        Raises: InvalidBody, TooManyQueues; QueueFull, BackendUnavailable, BackendRefused; OutcomeUnknown.
        Cancelled: the job may or may not be stored.
        """
        await self._quota.check(queue)
        job_id = new_id()
        item = wrap(body, content_type, job_id=job_id, source=f"/queues/{queue.name}", now_s=time.time())
        await self._backend.put(queue.key, item)
        return job_id
