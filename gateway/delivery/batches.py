"""Batches: a poll takes one job, as every poll does, and then what is ready behind it, under one lease.

1. A batch has no job that is expired or has had too many attempts. Such an item is settled as soon as its connection
   allows that.
2. A batch that is lost counts an attempt for each of its jobs. So that a job which kills its consumers does not use up
   the attempts of others, a job that was delivered before comes in smaller batches, and its last attempt is alone: no
   job becomes a dead letter because of another one.
3. What does not fit goes back, the newest item first, so that the queue keeps its order.
4. If a server does not keep the order of items that go back together, a queue whose policy has `retry = "head"` gives
   one job at a time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.config.policies import Retry
from gateway.coverage import Covered
from gateway.delivery.attempts import identity
from gateway.delivery.backend import OnGone
from gateway.delivery.caps.caps import CapPlace, Caps
from gateway.delivery.dead_letters.store import Stored
from gateway.delivery.moves import Moves, job_of
from gateway.delivery.pause import Pauses
from gateway.delivery.poll_limits import HeldPoll
from gateway.delivery.queues.catalog import Queue
from gateway.delivery.receive import Delivery, Hold, Receiver
from gateway.envelope.read import Job
from gateway.errors import BackendRefused, LeaseLost, OutcomeUnknown, QueueDeleted, TooManyLeases
from gateway.fairness.turns import Turns
from gateway.leases.ahead import AckAhead
from gateway.leases.batch import BatchLease
from gateway.leases.lease import OpenRead, State
from gateway.leases.registry import Registry

log = logging.getLogger(__name__)

SMALLER_BITS: Final = 2
"""With each attempt of a job the batches in which it comes are smaller: a quarter."""


@dataclass(frozen=True, slots=True)
class BatchSize:
    """The most that a consumer wants: jobs, and bytes of their items together, unless it is one."""

    jobs: int
    limit_bytes: int


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
    ) -> None:
        self._receiver = receiver
        self._registry = registry
        self._moves = moves
        self._tasks = tasks
        self._pauses = pauses
        self._caps = caps
        self._turns = turns

    async def next(
        self,
        queue: Queue,
        size: BatchSize,
        *,
        timeout_s: float,
        lease_s: float,
        on_gone: OnGone,
        at_most_once: bool = False,
        ahead: AckAhead | None = None,
    ) -> Covered[BatchDelivery | Hold | None]:
        """The next jobs; as soon as there is one, all that are ready. See Receiver.next.

        Raises: as Receiver.next. Cancelled: no job is held, except for those whose ack has begun.
        """
        until_s = time.monotonic() + timeout_s
        while True:
            left_s = max(0.0, until_s - time.monotonic())
            found = await self._receiver.next(queue, timeout_s=left_s, lease_s=lease_s, on_gone=on_gone, ahead=ahead)
            ahead = None
            if not isinstance(found.result, Delivery):
                return Covered(found.result, found.coverage)
            delivery = await self._with_more(queue, size, found.result, lease_s)
            if delivery is None or (at_most_once and not await self._acked(delivery.batch, on_gone)):
                continue
            return Covered(delivery, None)

    async def _with_more(self, queue: Queue, size: BatchSize, first: Delivery, lease_s: float) -> BatchDelivery | None:
        """The job with those behind it; None if they were lost, or are paused, meanwhile. Cancelled: they are back."""
        batch, leased_s = self._registry.batches.begin(first.lease), time.monotonic()
        try:
            if (read := first.lease.read) is not None:
                read = await read.first_of_batch()
                if first.lease.read is not None:
                    first.lease.read = read
            filling = FillingBatch(self._registry, self._moves, self._tasks, queue, batch, [first.job], size, lease_s)
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

    async def _acked(self, batch: BatchLease, on_gone: OnGone) -> bool:
        """Acks the batch of a consumer that is still there. False: some of its jobs are back on their queue.

        Raises: OutcomeUnknown, BackendRefused. Cancelled: the acks continue.
        """
        gone = asyncio.Event()
        on_gone(gone.set)()
        if gone.is_set():
            self._registry.give_back_all(batch.leases)
            return False
        try:
            await self._registry.batches.ack(batch)
        except (LeaseLost, QueueDeleted):
            return False
        return True


class FillingBatch:
    """A batch that takes more jobs. full: it takes no further one. read: the item of its first job."""

    def __init__(  # noqa: PLR0917 (one caller)
        self,
        registry: Registry,
        moves: Moves,
        tasks: asyncio.TaskGroup,
        queue: Queue,
        batch: BatchLease,
        jobs: list[Job],
        size: BatchSize,
        lease_s: float,
    ) -> None:
        self.jobs = jobs
        self.full = False
        self.read = batch.leases[0].read
        self.left_bytes = size.limit_bytes - (len(self.read.data) if self.read is not None else 0)
        self._registry = registry
        self._moves = moves
        self._tasks = tasks
        self._queue = queue
        self._batch = batch
        self._jobs = size.jobs
        self._lease_s = lease_s
        self._last_attempt = moves.max_attempts(queue)
        self._most = self._most_with(batch.leases[0].attempt)
        if queue.policy.retry is Retry.HEAD and self.read is not None and not self.read.keeps_order:
            self._most = 1

    @property
    def room(self) -> int:
        """How many more jobs it may have."""
        if self.full or self.left_bytes <= 0:
            return 0
        return max(0, min(self._most - len(self.jobs), self._registry.limits.room(self._queue.tenant)))

    def add(self, read: OpenRead, places: list[CapPlace] | None) -> bool:
        """Adds the item, or settles it without its consumer (rule 1). False: the batch has no room for it."""
        queue, moves = self._queue, self._moves
        job = job_of(queue, read)
        if job.expires_s is not None and job.expires_s <= time.time():
            self._tasks.create_task(_drop(read))
            return True
        known_by = identity(job.id, read.data)
        attempt = moves.attempts.of(queue.key, known_by, job.attempt)
        if attempt > self._last_attempt:
            self._tasks.create_task(self._to_dead_letters(read, known_by, attempt - 1))
            return True
        most = min(self._most, self._most_with(attempt))
        if len(self.jobs) >= most or len(read.data) > self.left_bytes or not self._batch.open:
            return False
        try:
            lease = self._registry.open(
                read,
                moves.mover(queue),
                id_=f"{self._batch.id}.{len(self.jobs)}",
                tenant=queue.tenant,
                queue=queue.name,
                key=queue.key,
                job_id=job.id,
                known_by=known_by,
                attempt=attempt,
                length_s=self._lease_s,
            )
        except TooManyLeases:
            return False
        self._most = most
        self.left_bytes -= len(read.data)
        self._registry.batches.add(self._batch, lease)
        self.jobs.append(job)
        if places:
            places.pop().leased(lease)
        return True

    def _most_with(self, attempt: int) -> int:
        """How many jobs a batch may have with a job whose attempt this is (rule 2)."""
        if attempt >= self._last_attempt:
            return 1
        return max(1, self._jobs >> SMALLER_BITS * (attempt - 1))

    async def _to_dead_letters(self, read: OpenRead, known_by: str, attempts: int) -> None:
        """The item is a dead letter, or back on its queue."""
        queue, moves = self._queue, self._moves
        try:
            await read.turn()
            stored = await moves.instead_of_delivery(queue, read, attempts)
            if stored is Stored.YES:
                moves.attempts.forget(queue.key, known_by)
        except (LeaseLost, QueueDeleted, BackendRefused, OutcomeUnknown):
            pass
        except Exception:
            log.exception("moving a job to the dead letters failed")
        finally:
            read.give_back()


async def _drop(read: OpenRead) -> None:
    """The item is gone, or back on its queue."""
    try:
        await read.confirm()
    except (LeaseLost, QueueDeleted, BackendRefused, OutcomeUnknown):
        pass
    except Exception:
        log.exception("dropping a job failed")
    finally:
        read.give_back()
