"""Enqueue: puts items on a Kestrel queue and returns when they are stored."""

from __future__ import annotations

import time
from collections.abc import Sequence

from gateway.delivery.backend import Backend
from gateway.delivery.queues.catalog import Queue
from gateway.delivery.queues.quota import Quota
from gateway.envelope.times import wire_expiry
from gateway.envelope.write import EnqueueContext, Item
from gateway.errors import GatewayError


class Publisher:
    """Stores jobs. stored: the number of jobs that were stored and reported to their producer."""

    def __init__(self, backend: Backend, quota: Quota) -> None:
        self._backend = backend
        self._quota = quota
        self.stored = 0

    def stamp(
        self, queue: Queue, *, ttl_s: float | None = None, traceparent: str = "", tracestate: str = ""
    ) -> EnqueueContext:
        """What the gateway adds to jobs that are enqueued now. ttl_s: how long they may wait; None: no limit."""
        now_s = time.time()
        expires_s = now_s + ttl_s if ttl_s is not None else None
        return EnqueueContext(f"/queues/{queue.name}", now_s, expires_s, queue.tenant, traceparent, tracestate)

    async def enqueue(self, queue: Queue, item: Item, ordering_key: str | None = None) -> None:
        """Stores the job: Kestrel has answered STORED. ordering_key: jobs with the same key go to the same server.

        Raises: TooManyQueues; QueueFull, JobTooLarge, BackendUnavailable, BackendRefused; OutcomeUnknown.
        Cancelled: the job may or may not be stored.
        """
        with await self._quota.room(queue):
            expiry = wire_expiry(item.expires_s, time.time()) if item.expires_s is not None else 0
            await self._backend.put(
                queue.key, item.data, expiry, ordering_key=ordering_key, duplicates_ok=queue.policy.duplicates_ok
            )
            self.stored += 1

    async def enqueue_many(
        self, queue: Queue, items: Sequence[Item], ordering_key: str | None = None
    ) -> list[GatewayError | None]:
        """Stores jobs in order. Returns one outcome each: None if stored, otherwise an error as from `enqueue`.

        Cancelled: any of them may be stored.
        """
        with await self._quota.room(queue):
            now_s = time.time()
            puts = [(item.data, wire_expiry(item.expires_s, now_s)) for item in items]
            outcomes = await self._backend.put_many(
                queue.key, puts, ordering_key=ordering_key, duplicates_ok=queue.policy.duplicates_ok
            )
            self.stored += outcomes.count(None)
            return outcomes
