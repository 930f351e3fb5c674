"""What happens to a job that its consumer did not finish: `QueueMover.move` decides, and `Moves` moves the job.

The job goes to the tail, to a holding queue, to the dead letters, or back to the head.

1. A move stores a copy over another connection, and confirms the original only after Kestrel has answered STORED. An
   interruption in between leaves the job on a queue, at worst twice.
2. If a copy is not safe, none is made: the job goes back to the head, and its attempt is counted in memory. A copy is
   not safe if the queue is full (for the copy), discards old items or has fanout children, if the item is raw, if the
   expiry of the envelope is unknown or past, or if the server refuses, does not answer or may have put the job back.
3. A delay is a stay on the holding queues (gateway.delivery.delay): the copy goes there. If no copy is safe, a nacked
   job stays set aside until it is due, unless it belongs to a batch, whose other jobs would wait for it. A delay that
   the policy sets is left out if the job would expire before.
4. A job whose last attempt failed goes to the dead letters; if these refuse it, it goes where it would otherwise go.
5. The queue of a job may be deleted at any time, here or elsewhere, or its connection may be lost, which puts it back.
   Then nothing is copied. Kestrel is asked just before each copy; if it cannot tell, the copy is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.config.policies import Retry
from gateway.delivery.attempts import Attempts
from gateway.delivery.backend import Backend
from gateway.delivery.dead_letters.store import DeadLetters, Stored, store, stored_by
from gateway.delivery.delay.held_job import HeldJob
from gateway.delivery.delay.holding import HoldingQueues, check_due
from gateway.delivery.queues.catalog import Catalog, Queue
from gateway.delivery.queues.copy_safety import CopySafety
from gateway.envelope.due import milliseconds
from gateway.envelope.read import Job, raw, unwrap
from gateway.envelope.rewrite import DeadReason, has_known_ttl, next_attempt
from gateway.envelope.times import wire_expiry
from gateway.errors import BackendRefused, LeaseLost, OutcomeUnknown, QueueDeleted
from gateway.leases.lease import Disposition, Lease, Moved, OpenRead, Place, State


@dataclass(frozen=True, slots=True)
class MoveStatistics:
    """moved: copies to the tail. held: copies to holding queues. dead_letters: copies to the dead letters. kept: jobs
    that stayed at the head although they were to move, by reason. doubled: moves whose original may still be on its
    queue, in addition to its copy.
    """

    moved: int
    held: int
    dead_letters: int
    kept: dict[str, int]
    doubled: int


class Moves:
    """Moves jobs. tasks: the lifespan's group. max_attempts: for queues whose policy sets none.

    exhausted: called with the queue, the job, its attempts and the Unix time in ns at which the move began, for each
    job that became a dead letter instead of a delivery; None: no callback. It must not raise.
    """

    def __init__(
        self,
        backend: Backend,
        catalog: Catalog,
        holding: HoldingQueues,
        tasks: asyncio.TaskGroup,
        *,
        max_attempts: int,
    ) -> None:
        self.dead_letters = DeadLetters(backend, catalog)
        self.attempts = Attempts()
        self.exhausted: Callable[[Queue, Job, int, int], None] | None = None
        self._backend = backend
        self._holding = holding
        self._copy_safety = CopySafety(backend, tasks)
        self._max_attempts = max_attempts
        self._moved = 0
        self._held = 0
        self._dead_lettered = 0
        self._doubled = 0
        self._kept: Counter[str] = Counter()

    def mover(self, queue: Queue) -> QueueMover:
        """The mover of a queue's jobs."""
        return QueueMover(self, queue)

    def max_attempts(self, queue: Queue) -> int:
        """How often a job of the queue is delivered before it becomes a dead letter."""
        return queue.policy.max_attempts or self._max_attempts

    def statistics(self) -> MoveStatistics:
        return MoveStatistics(self._moved, self._held, self._dead_lettered, dict(self._kept), self._doubled)

    async def to_dead_letters(
        self, queue: Queue, read: OpenRead, *, dead_reason: DeadReason, attempts: int, error: str = ""
    ) -> Stored:
        """Moves the job to the dead letters. YES: it is there and off its queue; otherwise it is still set aside.

        Raises what `OpenRead.confirm` raises: the dead letter exists, and the job may still be on its queue.
        Cancelled: the job may be in both places.
        """
        job = job_of(queue, read)
        stored = await self.dead_letters.add(
            queue, job, read.data, dead_reason=dead_reason, attempts=attempts, error=error
        )
        if stored is Stored.YES:
            await self._confirm(read)
            self._dead_lettered += 1
        return stored

    async def instead_of_delivery(self, queue: Queue, read: OpenRead, attempts: int) -> Stored:
        """As `to_dead_letters`, for a job that was delivered `attempts` times and gets no further lease."""
        began_ns = time.time_ns()
        stored = Stored.YES  # also if the confirm fails
        try:
            stored = await self.to_dead_letters(queue, read, dead_reason=DeadReason.MAX_ATTEMPTS, attempts=attempts)
        finally:
            if stored is Stored.YES and self.exhausted is not None:
                self.exhausted(queue, job_of(queue, read), attempts, began_ns)
        return stored

    async def may_copy(self, lease: Lease) -> bool:
        """Whether the job may be copied; if not, it must go back. Raises: QueueDeleted, LeaseLost."""
        if await self._copy_safety.still_open(_here(lease)):
            return True
        self._keep("perhaps-back")
        return False

    async def to_tail(self, queue: Queue, lease: Lease, reason: str, due_ms: int = 0, wait_ms: int = 0) -> Stored:
        """Moves the job to the tail as its next attempt, or to a holding queue until it is due. YES: it is there;
        otherwise it is still set aside. wait_ms: see HoldingQueues.hold.

        Raises: QueueDeleted; LeaseLost if no copy was made. Cancelled: as for `to_dead_letters`.
        """
        read = _held(lease)
        job = job_of(queue, read)
        copy = next_attempt(job, read.data, lease.attempt + 1, reason, due_ms / 1000)
        if copy is None:
            return self._keep("raw")
        if not has_known_ttl(job, read.data):
            return self._keep("unknown-ttl")
        now_s = time.time()
        if copy.expires_s is not None and copy.expires_s <= now_s:
            return self._keep("expired")
        against = await self._copy_safety.against_copy(queue.key)
        if against:
            return self._keep(against)
        generation = await self._holding.generation(queue.key) if due_ms and queue.is_child else None
        _here(lease)
        counted = self.attempts.forget(lease.key, lease.known_by)
        if due_ms:
            held = HeldJob(queue.tenant, queue.name, due_ms, copy.data, copy.expires_s, generation=generation)
            stored = await stored_by(self._holding.hold(held, wait_ms))
        else:
            stored = await store(self._backend, queue.key, copy.data, wire_expiry(copy.expires_s, now_s))
        if stored is not Stored.YES:
            if counted:
                self.attempts.returned(lease.key, lease.known_by, counted)
            return self._keep("not-stored" if stored is Stored.NO else "not-answered", stored)
        with contextlib.suppress(LeaseLost, BackendRefused, OutcomeUnknown):
            await self._confirm(_held(lease))
            self._moved += not due_ms
            self._held += bool(due_ms)
        return stored  # the copy is stored, whatever happened to the original

    async def _confirm(self, read: OpenRead) -> None:
        try:
            await read.confirm()
        except (LeaseLost, BackendRefused, OutcomeUnknown):
            self._doubled += 1
            raise

    def _keep(self, why: str, stored: Stored = Stored.NO) -> Stored:
        self._kept[why] += 1
        return stored


SHORTER: Final = "send a shorter delay, or ack the job if it is not worth another attempt"


class QueueMover:
    """Moves one queue's jobs away from their consumers. Implements gateway.leases.lease.Mover."""

    __slots__ = ("_moves", "_queue")

    def __init__(self, moves: Moves, queue: Queue) -> None:
        self._moves = moves
        self._queue = queue

    def target(self, disposition: Disposition) -> Place:
        """The requested place: by the request itself or by policy."""
        if disposition.state is State.REJECTED:
            return Place.DEAD
        return disposition.asked or self._by_policy()

    def is_last(self, lease: Lease) -> bool:
        """Whether this is the job's last attempt."""
        return lease.attempt >= self._moves.max_attempts(self._queue)

    async def check(self, lease: Lease, disposition: Disposition) -> None:
        """Raises DelayBeyondExpiry if the job would expire before its delay is over; not for a last attempt."""
        if disposition.delay_s and lease.read is not None and not self.is_last(lease):
            expires_s = await self._expires_s(lease.read)
            check_due(milliseconds(time.time() + disposition.delay_s), expires_s, SHORTER)

    async def _expires_s(self, read: OpenRead) -> float | None:
        """When the job expires; None: never, or not known. An item that does not say it may have an expiry on Kestrel,
        which only the embedded broker tells."""
        job = job_of(self._queue, read)
        return job.expires_s if job.id is not None and has_known_ttl(job, read.data) else await read.expires_s()

    async def move(self, lease: Lease, disposition: Disposition) -> Moved:
        """Moves the job.

        Raises: QueueDeleted: the job is gone with its queue. LeaseLost: it is back on its queue. For a rejected job,
        too: LeaseLost, BackendRefused: it is a dead letter and also back on its queue; OutcomeUnknown: it may be both.
        Cancelled: the job may be in two places, if the caller gives the read back.
        """
        due_ms = await self._due_ms(lease, disposition)
        moved = (
            Moved(await self._copy(lease, disposition)) if not due_ms else await self._hold(lease, disposition, due_ms)
        )
        if moved.place is Place.HEAD and not moved.set_aside:
            read = _held(lease)
            if disposition.counted:
                self._moves.attempts.returned(lease.key, lease.known_by)
            await read.abort()
        return moved

    async def _due_ms(self, lease: Lease, disposition: Disposition) -> int:
        """When the job is to be on its queue; 0: now."""
        policy = self._queue.policy.retry_delay
        delay_s = disposition.delay_s
        by_policy = delay_s is None and disposition.asked is not Place.HEAD and policy is not None
        if by_policy and policy is not None:
            delay_s = policy.after(lease.attempt, random.random())  # noqa: S311 (no secret)
        if not delay_s or disposition.state is State.REJECTED or self.is_last(lease):
            return 0
        due_ms = milliseconds(time.time() + delay_s)
        if by_policy and lease.read is not None:
            expires_s = await self._expires_s(lease.read)
            if expires_s is not None and due_ms >= expires_s * 1000:
                return 0
        return due_ms

    def _wait_ms(self, lease: Lease, disposition: Disposition) -> int:
        """The delay, if it is one of those that the policy gives to all jobs; otherwise 0."""
        policy = self._queue.policy.retry_delay
        if disposition.delay_s is not None or policy is None or not policy.exact:
            return 0
        return milliseconds(policy.after(lease.attempt, 0.5))

    async def _hold(self, lease: Lease, disposition: Disposition, due_ms: int) -> Moved:
        """Where the job is now; HEAD means that it is still set aside. Raises as `move`."""
        if not await self._moves.may_copy(lease):
            return Moved(Place.HEAD)
        wait_ms = self._wait_ms(lease, disposition)
        stored = await self._moves.to_tail(self._queue, lease, disposition.reason, due_ms, wait_ms)
        if stored is Stored.YES:
            return Moved(Place.TAIL, due_ms / 1000)
        if stored is not Stored.NO or disposition.state is not State.NACKED or lease.batch_id:
            return Moved(Place.HEAD)
        await _here(lease).verify()  # a server that stores no copy may have stopped, and then the job is back at once
        return Moved(Place.HEAD, due_ms / 1000, set_aside=True)

    async def _copy(self, lease: Lease, disposition: Disposition) -> Place:
        """Where the job is now; HEAD means that it is still set aside."""
        target = self.target(disposition)
        dies = target is Place.DEAD or (disposition.counted and self.is_last(lease))
        stored = Stored.NO
        if (target is Place.HEAD and not dies) or not await self._moves.may_copy(lease):
            return Place.HEAD
        if dies:
            stored = await self._to_dead_letters(lease, disposition)
            if stored is Stored.YES:
                self._moves.attempts.forget(lease.key, lease.known_by)
                return Place.DEAD
            target = self._by_policy() if target is Place.DEAD else target
        if target is Place.TAIL and stored is Stored.NO:
            stored = await self._moves.to_tail(self._queue, lease, disposition.reason)
            if stored is Stored.YES:
                return Place.TAIL
        return Place.HEAD

    async def _to_dead_letters(self, lease: Lease, disposition: Disposition) -> Stored:
        dead_reason = DeadReason.REJECTED if disposition.state is State.REJECTED else DeadReason.MAX_ATTEMPTS
        read = _here(lease)
        try:
            stored = await self._moves.to_dead_letters(
                self._queue, read, dead_reason=dead_reason, attempts=lease.attempt, error=disposition.reason
            )
        except (LeaseLost, BackendRefused, OutcomeUnknown):
            if disposition.state is State.REJECTED:
                raise
            return Stored.YES
        return stored

    def _by_policy(self) -> Place:
        return Place.HEAD if self._queue.policy.retry is Retry.HEAD else Place.TAIL


def job_of(queue: Queue, read: OpenRead) -> Job:
    """The job in an item, read according to the queue's policy."""
    return raw(read.data) if queue.policy.raw else unwrap(read.data)


def _held(lease: Lease) -> OpenRead:
    """The open read of the lease. Raises QueueDeleted if the lease has ended, which only a deletion can cause."""
    if lease.read is None:
        raise QueueDeleted
    return lease.read


def _here(lease: Lease) -> OpenRead:
    """The open read of the lease, if its item is still set aside as far as is known. Raises: LeaseLost; as `_held`."""
    read = _held(lease)
    if read.lost:
        raise LeaseLost("the connection to Kestrel was lost, and the job is back on its queue")
    return read
