"""Next: a poll waits for a job and returns it under a lease.

On the way an expired job is dropped, and a job that was already delivered too often goes to the dead letters.

A consumer may want a job at most once: then the lease is acked before the consumer gets the job. Until the ack begins,
the job goes back if the consumer is gone. From then on it is never delivered again, even if the consumer does not get
it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from enum import Enum
from functools import partial

from gateway.coverage import Covered
from gateway.delivery.attempts import identity
from gateway.delivery.backend import Backend, OnGone
from gateway.delivery.dead_letters.store import Stored
from gateway.delivery.expired_jobs import ExpiredJobs
from gateway.delivery.moves import Moves, job_of
from gateway.delivery.pause import HeldPoll, Pauses
from gateway.delivery.poll_limits import PollLimits
from gateway.delivery.queues.catalog import Queue
from gateway.delivery.queues.quota import Quota
from gateway.envelope.read import Job
from gateway.envelope.rewrite import DeadReason
from gateway.errors import BackendRefused, Draining, LeaseLost, OutcomeUnknown, QueueDeleted, TooManyLeases
from gateway.fairness.turns import Turns
from gateway.leases.lease import Lease, OpenRead
from gateway.leases.registry import Registry

PASSING_S = 1.0
"""How long a poll with a timeout of 0 may skip jobs that are expired or dead."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A job and the lease that its consumer now holds."""

    job: Job
    lease: Lease


class Hold(Enum):
    """Why a queue that may have jobs handed out none."""

    PAUSED = "paused"


class Receiver:
    """Takes jobs for consumers. tasks: the lifespan's group."""

    def __init__(
        self,
        backend: Backend,
        registry: Registry,
        moves: Moves,
        quota: Quota,
        tasks: asyncio.TaskGroup,
        *,
        poll_limits: PollLimits,
        pauses: Pauses,
        turns: Turns,
    ) -> None:
        self._backend = backend
        self._quota = quota
        self._registry = registry
        self._moves = moves
        self._tasks = tasks
        self._poll_limits = poll_limits
        self._pauses = pauses
        self._turns = turns
        self.draining = False
        registry.on_end(moves.attempts.ended)

    @property
    def waiting(self) -> int:
        """The number of polls that wait now."""
        return len(self._poll_limits)

    async def next(
        self, queue: Queue, *, timeout_s: float, lease_s: float, on_gone: OnGone, at_most_once: bool = False
    ) -> Covered[Delivery | Hold | None]:
        """The next job under a lease of `lease_s` seconds; None if the wait ended empty or the consumer disconnected.

        Hold: the wait ended while the queue handed out nothing, and why. The coverage is that of an empty wait.
        at_most_once: the lease is already acked.

        Raises: TooManyQueues, TooManyWaiters, TooManyLeases, Draining; BackendUnavailable; OutcomeUnknown if the ack of
        a job was sent and no answer came: it is not delivered now, and may be gone.
        Cancelled: no job is held; one whose ack has begun is gone.
        """
        with await self._quota.room(queue):
            return await self._next(queue, timeout_s, lease_s, on_gone, at_most_once=at_most_once)

    async def _next(
        self, queue: Queue, timeout_s: float, lease_s: float, on_gone: OnGone, *, at_most_once: bool
    ) -> Covered[Delivery | Hold | None]:
        """Like `next`, for a queue that may be used."""
        if self.draining:  # no await between here and the registration as a waiter, so a drain finds every poll
            raise Draining("the gateway is shutting down and delivers no more jobs")
        began_s = time.monotonic()
        expired = ExpiredJobs(self._tasks)
        while True:
            self._registry.limits.check_room(queue.tenant)
            if self._pauses.paused(queue) and not await self._resumed(queue, began_s + timeout_s, on_gone):
                return Covered(Hold.PAUSED, None)
            left_s = max(0.0, timeout_s - (time.monotonic() - began_s))
            try:
                taken = await self._take(queue, left_s, on_gone)
            except TooManyLeases:  # possibly because of jobs that are being dropped
                if not await expired.one_ended():
                    raise
            else:
                if taken.result is None:
                    if self._pauses.paused(queue) and not self.draining:
                        continue
                    return Covered(None, taken.coverage)
                delivery = await self._deliver(queue, taken.result, lease_s, expired)
                if delivery is not None and (not at_most_once or await self._acked(delivery.lease, on_gone)):
                    return Covered(delivery, None)
            gone_s = time.monotonic() - began_s
            if gone_s > max(timeout_s, PASSING_S) or self.draining:
                return Covered(None, None)

    async def _resumed(self, queue: Queue, until_s: float, on_gone: OnGone) -> bool:
        """Waits until the queue is no longer paused. False: it is at `until_s` (monotonic), or the poll has ended.

        Raises TooManyWaiters. Cancelled: the poll no longer waits.
        """
        while self._pauses.paused(queue):
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return False
            self._poll_limits.check_room(queue)
            held = HeldPoll()
            self._poll_limits.add(queue, held)
            forget = on_gone(held.cancel)
            try:
                await self._pauses.wait(queue, held, left_s)
            finally:
                forget()
                self._poll_limits.remove(queue, held)
            if held.ended:
                return False
        return not self.draining

    async def _deliver(self, queue: Queue, read: OpenRead, lease_s: float, expired: ExpiredJobs) -> Delivery | None:
        """The item under a lease; None if it must not be delivered, and was dropped or became a dead letter.

        Raises: TooManyLeases; the item is back. Cancelled: it is back, or becomes a dead letter.
        """
        done = read.give_back
        try:
            await self._turns.for_item(read.data, queue.tenant)
            await self._pauses.learned()
            if self._pauses.paused(queue):
                await read.abort()
                return None
            job = job_of(queue, read)
            if job.expires_s is not None and job.expires_s <= time.time():
                await expired.drop(read)
                return None
            known_by = identity(job.id, read.data)
            attempt = self._moves.attempts.of(queue.key, known_by, job.attempt)
            if attempt > self._moves.max_attempts(queue):
                moved = self._tasks.create_task(self._to_dead_letters(queue, read, attempt - 1))
                done = partial(moved.add_done_callback, lambda _: read.give_back())
                if await asyncio.shield(moved):
                    self._moves.attempts.forget(queue.key, known_by)
                    return None
            return Delivery(job, self._lease(queue, job, read, known_by=known_by, attempt=attempt, length_s=lease_s))
        except BaseException:
            done()
            raise

    async def _acked(self, lease: Lease, on_gone: OnGone) -> bool:
        """Acks the lease of a consumer that is still there. False: its job is back on its queue, or deleted with it.

        Raises: OutcomeUnknown, BackendRefused. Cancelled: the ack continues.
        """
        gone = asyncio.Event()
        on_gone(gone.set)()
        if gone.is_set():
            self._registry.give_back(lease)
            return False
        try:
            await self._registry.ack(lease.id)
        except (LeaseLost, QueueDeleted):
            return False
        return True

    async def _to_dead_letters(self, queue: Queue, read: OpenRead, attempts: int) -> bool:
        """Whether the job is a dead letter now; otherwise the dead letters refused it and it is still set aside.

        It runs as a task of its own: a poll that is cancelled must not leave the job in both places.
        """
        try:
            return (
                await self._moves.to_dead_letters(queue, read, dead_reason=DeadReason.MAX_ATTEMPTS, attempts=attempts)
                is Stored.YES
            )
        except (LeaseLost, BackendRefused, OutcomeUnknown):
            return True

    async def _take(self, queue: Queue, timeout_s: float, on_gone: OnGone) -> Covered[OpenRead | None]:
        """The next item, set aside; None if the wait ended empty or the consumer disconnected."""
        self._poll_limits.check_room(queue)
        waiter = self._backend.wait(queue.key, timeout_s, queue.tenant)
        self._poll_limits.add(queue, waiter)
        forget = on_gone(waiter.cancel)
        try:
            read = await waiter.result()
            return Covered(read, waiter.coverage if read is None else None)
        except TooManyLeases as full:  # the limit is per server, which cannot tell when a lease ends
            raise TooManyLeases(full.detail, self._registry.limits.retry_after()) from full
        finally:
            forget()
            self._poll_limits.remove(queue, waiter)

    def _lease(self, queue: Queue, job: Job, read: OpenRead, *, known_by: str, attempt: int, length_s: float) -> Lease:
        return self._registry.open(
            read,
            self._moves.mover(queue),
            tenant=queue.tenant,
            queue=queue.name,
            key=queue.key,
            job_id=job.id,
            known_by=known_by,
            attempt=attempt,
            length_s=length_s,
        )

    def end_polls(self, key: str) -> None:
        """Ends every waiting poll of the queue empty."""
        for waiter in self._poll_limits.of(key):
            waiter.cancel()

    def drain(self) -> None:
        """Ends every waiting poll empty, and delivers no further job."""
        self.draining = True
        for waiter in self._poll_limits:
            waiter.cancel()
