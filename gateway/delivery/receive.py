"""Next: a poll waits for a job and returns it under a lease.

On the way an expired job is dropped, and a job that was already delivered too often goes to the dead letters.

A consumer may want a job at most once: then the lease is acked before the consumer gets the job. Until the ack begins,
the job goes back if the consumer is gone. From then on it is never delivered again, even if the consumer does not get
it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from functools import partial
from typing import NamedTuple

from gateway.coverage import Covered
from gateway.delivery.attempts import identity_of
from gateway.delivery.backend import Backend, OnGone, Poll
from gateway.delivery.caps.caps import CapPlace, Caps
from gateway.delivery.caps.counter import CapLimits, CapReason
from gateway.delivery.dead_letters.store import Stored
from gateway.delivery.expired_jobs import ExpiredJobs
from gateway.delivery.job_times import JobTimes
from gateway.delivery.moves import Moves, job_of
from gateway.delivery.pause import Pauses
from gateway.delivery.poll_limits import HeldPoll, PollLimits
from gateway.delivery.queues.catalog import Queue
from gateway.delivery.queues.quota import THERE, Quota
from gateway.envelope.read import Job
from gateway.errors import (
    BackendRefused,
    Draining,
    LeaseLost,
    OutcomeUnknown,
    QueueDeleted,
    TooManyLeases,
    TooManyWaiters,
)
from gateway.fairness.turns import SLICE_BYTES, Turns
from gateway.leases.ahead import AckAhead
from gateway.leases.lease import Lease, OpenRead, State
from gateway.leases.limits import LeaseRoom
from gateway.leases.registry import Registry

PASSING_S = 1.0
"""How long a poll with a shorter timeout may skip jobs that are expired or dead."""


class NextOptions(NamedTuple):
    """What a consumer asks for. lease_s: the length of a lease of a job of the queue. at_most_once: the lease is acked
    before the consumer gets the job. room: where the lease counts; None: as one more lease of the tenant.
    """

    timeout_s: float
    lease_s: Callable[[Queue], float]
    on_gone: OnGone
    at_most_once: bool = False
    room: LeaseRoom | None = None


class Delivery(NamedTuple):
    """A job and the lease that its consumer now holds. waited_s: see JobTimes; None if that is unknown.

    polling_since_s: the Unix time since which its poll has waited; inf if the poll came later than the job.
    """

    job: Job
    lease: Lease
    waited_s: float | None = None
    polling_since_s: float = math.inf


class Hold(Enum):
    """Why no job of a queue was delivered, although it may have some."""

    PAUSED = "paused"
    MAX_IN_FLIGHT = "max_in_flight"
    RATE = "rate"


class Receiver:
    """Takes jobs for consumers. tasks: the lifespan's group. held: how many polls got no job, by the reason."""

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
        caps: Caps,
        turns: Turns,
    ) -> None:
        self._backend = backend
        self._quota = quota
        self._registry = registry
        self._moves = moves
        self._tasks = tasks
        self._poll_limits = poll_limits
        self._pauses = pauses
        self._caps = caps
        self._turns = turns
        self.draining = False
        self.held: Counter[Hold] = Counter()
        self.times = JobTimes()
        registry.leases.on_end(self.times.ended)
        registry.leases.on_end(moves.attempts.ended)
        registry.leases.on_end(caps.ended)

    @property
    def waiting(self) -> int:
        """The number of polls that wait now."""
        return len(self._poll_limits)

    async def next(
        self, queue: Queue, options: NextOptions, ahead: AckAhead | None = None
    ) -> Covered[Delivery | Hold | None]:
        """The next job under a lease; None if the wait ended empty or the consumer disconnected.

        Hold: the wait ended while the queue delivered nothing, and why. The coverage is that of an empty wait.
        ahead: an ack that must succeed before a job is taken.

        Raises: what the ack raises; TooManyQueues, TooManyWaiters, TooManyLeases, Draining; QueueNotFound for a
        subscription that does not exist; BackendUnavailable; OutcomeUnknown if the ack of a job was sent and no answer
        came: it is not delivered now, and may be gone.
        Cancelled: no job is held; one whose ack has begun is gone.
        """
        if ahead is not None and not self._may_take_now(queue):
            await ahead.done()
            ahead = None
        use = THERE if ahead is not None else self._quota.room_now(queue)
        with use or await self._quota.room(queue):
            found = await self._next(queue, options, ahead)
        if isinstance(found.result, Hold):
            self.held[found.result] += 1
        return found

    def _may_take_now(self, queue: Queue) -> bool:
        """Whether nothing comes before the take of a job: no wait, and no refusal."""
        try:
            self._registry.limits.check_room(queue.tenant)
            self._poll_limits.check_room(queue)
        except (TooManyLeases, TooManyWaiters):
            return False
        held = self._pauses.paused(queue) or self._caps.limits(queue) is not None
        return not (held or self.draining) and self._quota.room_now(queue) is not None

    async def _next(
        self, queue: Queue, options: NextOptions, ahead: AckAhead | None
    ) -> Covered[Delivery | Hold | None]:
        """Like `next`, for a queue that may be used. ahead: only if `_may_take_now` has just said so."""
        if self.draining:  # no await between here and the registration as a waiter, so a drain finds every poll
            raise Draining("the gateway is shutting down and delivers no more jobs")
        until_s = time.monotonic() + options.timeout_s
        passing_s = time.monotonic() + max(options.timeout_s, PASSING_S)
        expired = ExpiredJobs(self._tasks)
        checked = ahead is not None  # the ack must not wait for anything that comes before a take
        while True:
            place: CapPlace | None = None
            if not checked:
                (options.room or self._registry.limits).check_room(queue.tenant)
                if self._pauses.paused(queue) and not await self._resumed(queue, until_s, options.on_gone):
                    return Covered(Hold.PAUSED, None)
                if (limits := self._caps.limits(queue)) is not None:
                    given = await self._place(queue, limits, until_s, options.on_gone)
                    if given is None:
                        continue
                    if isinstance(given, CapReason):
                        return Covered(None if given is CapReason.OTHERS else Hold(given.value), None)
                    place = given
            try:
                if not checked:
                    self._poll_limits.check_room(queue)
                checked = False
                taken = await self._once(queue, options, until_s, expired=expired, place=place, ahead=ahead)
            finally:
                if place is not None:
                    place.done()
            if taken is not None:
                return taken
            if time.monotonic() > passing_s or self.draining:
                return Covered(None, None)

    async def _once(
        self,
        queue: Queue,
        options: NextOptions,
        until_s: float,
        *,
        expired: ExpiredJobs,
        place: CapPlace | None,
        ahead: AckAhead | None,
    ) -> Covered[Delivery | None] | None:
        """Takes one item and delivers it; None if the poll is to go on, because this one is not to be delivered."""
        since_s = time.time()
        try:
            taken = await self._take(queue, max(0.0, until_s - time.monotonic()), options.on_gone, ahead)
        except TooManyLeases:  # possibly because of jobs that are being dropped
            if not await expired.one_ended():
                raise
            return None
        if taken.result is None:
            return None if self._pauses.paused(queue) and not self.draining else Covered(None, taken.coverage)
        lease_s = options.lease_s(queue)
        delivery = await self.deliver(queue, taken.result, lease_s, expired, options.room, since_s=since_s)
        if delivery is None:
            return None
        lease = delivery.lease
        if place is not None:
            place.leased(lease)
        if options.at_most_once and not await self.acked(lease.id, (lease,), options.on_gone):
            return None
        return Covered(delivery, None)

    async def _resumed(self, queue: Queue, until_s: float, on_gone: OnGone) -> bool:
        """Waits until the queue is no longer paused. False: it is at `until_s` (monotonic), or the poll has ended.

        Raises TooManyWaiters. Cancelled: the poll no longer waits.
        """
        while self._pauses.paused(queue):
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return False
            with self._held(queue, on_gone) as poll:
                await self._pauses.wait(queue, poll, left_s)
            if poll.ended:
                return False
        return not self.draining

    async def _place(
        self, queue: Queue, limits: CapLimits, until_s: float, on_gone: OnGone
    ) -> CapPlace | CapReason | None:
        """A place within the queue's limits, or why there is none at `until_s`; None: the queue has changed.

        Raises TooManyWaiters. Cancelled: the poll no longer waits, and has no place.
        """
        with self._held(queue, on_gone) as poll:
            place = await self._caps.place(queue, limits, poll, until_s - time.monotonic())
        if not poll.woken and not self.draining:
            return place
        if isinstance(place, CapPlace):
            place.done()
        return CapReason.OTHERS if poll.ended or self.draining else None

    @contextmanager
    def _held(self, queue: Queue, on_gone: OnGone) -> Iterator[HeldPoll]:
        """A poll that waits here, as long as its consumer is there."""
        self._poll_limits.check_room(queue)
        poll = HeldPoll()
        self._poll_limits.add(queue, poll)
        forget = on_gone(poll.cancel)
        try:
            yield poll
        finally:
            forget()
            self._poll_limits.remove(queue, poll)

    async def deliver(
        self,
        queue: Queue,
        read: OpenRead,
        lease_s: float,
        expired: ExpiredJobs,
        room: LeaseRoom | None = None,
        *,
        since_s: float = math.inf,
    ) -> Delivery | None:
        """The item under a lease; None if it must not be delivered, and was dropped or became a dead letter.

        room: see NextOptions. since_s: the Unix time since which a poll has waited for it; inf: it may have been there
        before.

        Raises: TooManyLeases; BackendUnavailable if it cannot be known whether the queue is paused; the item is back.
        Cancelled: it is back, or becomes a dead letter.
        """
        done = read.give_back
        try:
            if len(read.data) > SLICE_BYTES:
                await self._turns.for_item(read.data, queue.tenant)
            paused = self._pauses.paused(queue) if self._pauses.fresh else await self._pauses.paused_now(queue)
            if paused:
                await read.abort()
                return None
            job = job_of(queue, read)
            if job.expires_s is not None and job.expires_s <= time.time():
                await expired.drop(read)
                return None
            known_by = await identity_of(job.id, read.data)
            attempt = self._moves.attempts.of(queue.key, known_by, job.attempt)
            if attempt > self._moves.max_attempts(queue):
                moved = self._tasks.create_task(self._to_dead_letters(queue, read, attempt - 1))
                done = partial(moved.add_done_callback, lambda _: read.give_back())
                if await asyncio.shield(moved):
                    self._moves.attempts.forget(queue.key, known_by)
                    return None
            lease = self._registry.open(
                read,
                self._moves.mover(queue),
                tenant=queue.tenant,
                queue=queue.name,
                key=queue.key,
                job_id=job.id,
                known_by=known_by,
                attempt=attempt,
                length_s=lease_s,
                room=room,
            )
            return Delivery(job, lease, self.times.delivered(job, attempt, since_s), since_s)
        except BaseException:
            done()
            raise

    async def paused_since(self, queue: Queue, leases: Sequence[Lease], leased_s: float) -> bool:
        """Whether the queue is paused, see Pauses.paused_since. If so, the jobs, which were not delivered, are back in
        this order and have used no attempt.
        """
        if not await self._pauses.paused_since(queue, leased_s):
            return False
        held = [lease for lease in leases if lease.state is State.HELD]
        self._registry.give_back_all(held)
        for lease in held:
            self._moves.attempts.not_delivered(lease.key, lease.known_by)
        return True

    async def acked(self, lease_id: str, leases: Sequence[Lease], on_gone: OnGone) -> bool:
        """Acks the lease of a consumer that is still there. leases: those of its jobs; it has several if it is a batch.

        False: some of the jobs are back on their queue, or deleted with it.
        Raises: OutcomeUnknown, BackendRefused. Cancelled: the ack continues.
        """
        gone = asyncio.Event()
        on_gone(gone.set)()
        if gone.is_set():
            self._registry.give_back_all(leases)
            return False
        try:
            await self._registry.ack(lease_id)
        except (LeaseLost, QueueDeleted):
            return False
        return True

    async def _to_dead_letters(self, queue: Queue, read: OpenRead, attempts: int) -> bool:
        """Whether the job is a dead letter now; otherwise the dead letters refused it and it is still set aside.

        It runs as a task of its own: a poll that is cancelled must not leave the job in both places.
        """
        try:
            return await self._moves.instead_of_delivery(queue, read, attempts) is Stored.YES
        except (LeaseLost, QueueDeleted, BackendRefused, OutcomeUnknown):
            return True

    async def _take(
        self, queue: Queue, timeout_s: float, on_gone: OnGone, ahead: AckAhead | None
    ) -> Covered[OpenRead | None]:
        """The next item, set aside; None if the wait ended empty or the consumer disconnected."""
        waiter = None
        if ahead is not None and not ahead.acked:
            waiter = self._take_after(queue, timeout_s, ahead)
            if waiter is None:
                await ahead.done()
        if waiter is None:
            waiter = self._backend.wait(queue.key, timeout_s, queue.tenant)
        self._poll_limits.add(queue, waiter)
        forget = on_gone(waiter.cancel)
        try:
            if ahead is not None:
                await ahead.done()
            read = await waiter.result()
            return Covered(read, waiter.coverage if read is None else None)
        except TooManyLeases as full:  # the limit is per server, which cannot tell when a lease ends
            raise TooManyLeases(full.detail, self._registry.limits.retry_after()) from full
        except BaseException:
            waiter.cancel()
            raise
        finally:
            forget()
            self._poll_limits.remove(queue, waiter)

    def _take_after(self, queue: Queue, timeout_s: float, ahead: AckAhead) -> Poll | None:
        """A poll that goes to the server in one write with the ack, which comes first; None if that is not possible."""
        waiter = self._backend.take_after(ahead.read, queue.key, timeout_s, queue.tenant)
        if waiter is not None and ahead.begin():
            return waiter
        if waiter is not None:
            waiter.cancel()
        return None

    def end_polls(self, key: str) -> None:
        """Ends every waiting poll of the queue empty."""
        for waiter in self._poll_limits.of(key):
            waiter.cancel()

    def drain(self) -> None:
        """Ends every waiting poll empty, and delivers no further job."""
        self.draining = True
        for waiter in self._poll_limits:
            waiter.cancel()
