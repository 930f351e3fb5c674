"""Batches: a poll takes one job, as every poll does, and then what is ready behind it, under one lease.

What does not fit goes back, the newest item first, so that the queue keeps its order. Which jobs fit is in
filling_batch.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.coverage import Covered
from gateway.delivery.caps.caps import CapPlace, Caps
from gateway.delivery.filling_batch import BatchSize, FillingBatch
from gateway.delivery.moves import Moves
from gateway.delivery.ordered_queues import OrderedQueues
from gateway.delivery.pause import Pauses
from gateway.delivery.poll_limits import HeldPoll
from gateway.delivery.queues.catalog import Queue
from gateway.delivery.receive import Delivery, Hold, NextOptions, Receiver
from gateway.envelope.read import Job
from gateway.fairness.turns import Turns
from gateway.leases.ahead import AckAhead
from gateway.leases.batch import BatchLease
from gateway.leases.lease import OpenRead, State
from gateway.leases.registry import Registry


@dataclass(frozen=True, slots=True)
class BatchDelivery:
    """Jobs, and the lease over all of them that their consumer now holds."""

    jobs: Sequence[Job]
    batch: BatchLease


class BatchReceiver:
    """Takes batches. receiver: takes the first job of each. tasks: the lifespan's group."""

    def __init__(
        self,
        receiver: Receiver,
        registry: Registry,
        moves: Moves,
        tasks: asyncio.TaskGroup,
        *,
        pauses: Pauses,
        caps: Caps,
        turns: Turns,
        ordered: OrderedQueues,
    ) -> None:
        self._receiver = receiver
        self._ordered = ordered
        self._registry = registry
        self._moves = moves
        self._tasks = tasks
        self._pauses = pauses
        self._caps = caps
        self._turns = turns

    async def next(
        self, queue: Queue, size: BatchSize, options: NextOptions, ahead: AckAhead | None = None
    ) -> Covered[BatchDelivery | Hold | None]:
        """The next jobs; as soon as there is one, all that are ready. See Receiver.next.

        Raises: as Receiver.next. Cancelled: no job is held, except for those whose ack has begun.
        """
        until_s = time.monotonic() + options.timeout_s
        while True:
            left_s = max(0.0, until_s - time.monotonic())
            found = await self._receiver.next(queue, options._replace(timeout_s=left_s, at_most_once=False), ahead)
            ahead = None
            if not isinstance(found.result, Delivery):
                return Covered(found.result, found.coverage)
            delivery = await self._with_more(queue, size, found.result, options.lease_s(queue))
            if delivery is None:
                continue
            batch = delivery.batch
            if not options.at_most_once or await self._receiver.acked(batch.id, batch.leases, options.on_gone):
                return Covered(delivery, None)

    async def _with_more(self, queue: Queue, size: BatchSize, first: Delivery, lease_s: float) -> BatchDelivery | None:
        """The job with those behind it; None if they were lost, or are paused, meanwhile. Cancelled: they are back."""
        batch, leased_s = self._registry.batches.begin(first.lease), time.monotonic()
        try:
            if (read := first.lease.read) is not None:
                read = await read.first_of_batch()
                if first.lease.read is not None:
                    first.lease.read = read
            filling = FillingBatch(
                self._registry, self._moves, self._tasks, queue, batch, [first.job], size, lease_s, self._ordered
            )
            await self._fill(queue, filling)
            for job, lease in zip(filling.jobs[1:], batch.leases[1:], strict=True):
                self._receiver.times.delivered(job, lease.attempt, first.polling_since_s)
            paused = await self._receiver.paused_since(queue, batch.leases, leased_s)
        except BaseException:
            self._registry.give_back_all(batch.leases)
            raise
        if not paused and all(lease.state is State.HELD for lease in batch.leases):
            return BatchDelivery(filling.jobs, batch)
        self._registry.give_back_all(batch.leases)
        return None

    async def _fill(self, queue: Queue, filling: FillingBatch) -> None:
        """Takes what is ready, in steps, until the batch is full or nothing is ready."""
        while (room := filling.room) and not (self._receiver.draining or self._pauses.paused(queue)):
            places = await self._places(queue, room)
            try:
                if (read := filling.read) is None or not (wanted := room if places is None else len(places)):
                    return
                reads = await read.more(wanted, filling.left_bytes)
                if not reads:
                    return
                await self._add(queue, filling, reads, places)
            finally:
                for place in places or ():
                    place.done()

    async def _add(
        self, queue: Queue, filling: FillingBatch, reads: Sequence[OpenRead], places: list[CapPlace] | None
    ) -> None:
        """Adds the items. Cancelled: those that are not in the batch are back."""
        added = 0
        try:
            for read in reads:
                await self._turns.for_item(read.data, queue.tenant)
                if await self._pauses.paused_now(queue) or not filling.add(read, places):
                    filling.full = True
                    return
                added += 1
        finally:
            for read in reversed(reads[added:]):
                read.give_back()

    async def _places(self, queue: Queue, wanted: int) -> list[CapPlace] | None:
        """Places within the limits of the queue, as many as there are now; None if it has no limit."""
        limits = self._caps.limits(queue)
        if limits is None:
            return None
        places: list[CapPlace] = []
        while len(places) < wanted:
            place = await self._caps.place(queue, limits, HeldPoll(), 0.0)
            if not isinstance(place, CapPlace):
                break
            places.append(place)
        return places
