"""Enqueue: puts items on a Kestrel queue, delayed ones on a holding queue, and returns when they are stored."""

from __future__ import annotations

import time
from collections.abc import Sequence

from gateway.delivery.backend import Backend
from gateway.delivery.delay.held_job import HeldJob
from gateway.delivery.delay.holding import HoldingQueues, check_due
from gateway.delivery.figures.full import FullQueues
from gateway.delivery.ordered_queues import OrderedQueues
from gateway.delivery.queues.catalog import Queue
from gateway.delivery.queues.quota import Quota
from gateway.envelope.rewrite import delayed
from gateway.envelope.times import wire_expiry
from gateway.envelope.write import EnqueueContext, Item
from gateway.errors import DelayBeyondExpiry, GatewayError, QueueFull


class Publisher:
    """Stores jobs. stored: the number of jobs that were stored and reported to their producer. delayed: those of them
    that were not due yet. ordered: the queues with an Ordering-Key."""

    def __init__(self, backend: Backend, quota: Quota, holding: HoldingQueues, ordered: OrderedQueues) -> None:
        self._backend = backend
        self._ordered = ordered
        self._holding = holding
        self.delayed = 0
        self._quota = quota
        self.stored = 0
        self.full = FullQueues()

    def stamp(
        self,
        queue: Queue,
        *,
        ttl_s: float | None = None,
        traceparent: str = "",
        tracestate: str = "",
        ordering_key: str | None = None,
    ) -> EnqueueContext:
        """What the gateway adds to jobs that are enqueued now. ttl_s: how long they may wait; None: no limit."""
        now_s = time.time()
        return EnqueueContext(
            source=f"/queues/{queue.name}",
            now_s=now_s,
            expires_s=now_s + ttl_s if ttl_s is not None else None,
            tenant=queue.tenant,
            traceparent=traceparent,
            tracestate=tracestate,
            partition_key=ordering_key or "",
        )

    async def enqueue(self, queue: Queue, item: Item, ordering_key: str | None = None) -> None:
        """Stores the job: Kestrel has answered STORED. ordering_key: jobs with the same key go to the same server; for
        jobs without a delay.

        Raises: DelayBeyondExpiry; TooManyQueues; QueueFull, JobTooLarge, BackendUnavailable, BackendRefused;
        NotSupported if the item is empty and the server loses or changes such items; OutcomeUnknown.
        Cancelled: the job may or may not be stored.
        """
        if item.due_ms:
            check_due(item.due_ms, item.expires_s)
            with await self._quota.room(queue):
                await self._holding.hold(_held(queue, item, item.due_ms))
                self.stored += 1
                self.delayed += 1
            return
        if ordering_key is not None:
            self._ordered.add(queue.key)
        with await self._quota.room(queue):
            expiry = wire_expiry(item.expires_s, time.time()) if item.expires_s is not None else 0
            try:
                await self._backend.put(
                    queue.key, item.data, expiry, ordering_key=ordering_key, duplicates_ok=queue.policy.duplicates_ok
                )
            except QueueFull as exc:
                self.full.note(queue.key, [exc])
                raise
            self.full.note(queue.key, [None])
            self.stored += 1

    async def enqueue_many(
        self, queue: Queue, items: Sequence[Item], ordering_key: str | None = None
    ) -> list[GatewayError | None]:
        """Stores jobs in order. Returns one outcome each: None if stored, otherwise an error as from `enqueue`.

        Raises: TooManyQueues; BackendUnavailable if no server is known. Cancelled: any of them may be stored.
        """
        if any(item.due_ms for item in items):
            return await self._enqueue_each(queue, items)
        if ordering_key is not None:
            self._ordered.add(queue.key)
        with await self._quota.room(queue):
            now_s = time.time()
            puts = [(item.data, wire_expiry(item.expires_s, now_s)) for item in items]
            outcomes = await self._backend.put_many(
                queue.key, puts, ordering_key=ordering_key, duplicates_ok=queue.policy.duplicates_ok
            )
            self.full.note(queue.key, outcomes)
            self.stored += outcomes.count(None)
            return outcomes

    async def _enqueue_each(self, queue: Queue, items: Sequence[Item]) -> list[GatewayError | None]:
        """Like `enqueue_many`, for items of which some are delayed. Those without a delay keep their order."""
        outcomes = [_fault(item) for item in items]
        good = [place for place, outcome in enumerate(outcomes) if outcome is None]
        delayed = [(place, items[place].due_ms or 0) for place in good if items[place].due_ms]
        now = [place for place in good if not items[place].due_ms]
        with await self._quota.room(queue):
            held = [_held(queue, items[place], due_ms) for place, due_ms in delayed]
            for (place, _), outcome in zip(delayed, await self._holding.hold_many(held), strict=True):
                outcomes[place] = outcome
                self.delayed += outcome is None
                self.stored += outcome is None
        stored = await self.enqueue_many(queue, [items[place] for place in now])
        for place, outcome in zip(now, stored, strict=True):
            outcomes[place] = outcome
        return outcomes


def _held(queue: Queue, item: Item, due_ms: int) -> HeldJob:
    data = item.data if queue.policy.raw else delayed(item.data, due_ms / 1000)
    return HeldJob(queue.tenant, queue.name, due_ms, data, item.expires_s)


def _fault(item: Item) -> GatewayError | None:
    """Why the item is not stored; None if it may be."""
    try:
        check_due(item.due_ms or 0, item.expires_s)
    except DelayBeyondExpiry as fault:
        return fault
    return None
