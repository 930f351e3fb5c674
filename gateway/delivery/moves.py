"""What becomes of a job that its consumer did not finish: to the tail, to the dead letters, or back to the head.

1. A move is a copy on another connection, seen stored, and only then the confirm of the original: whatever happens in
   between leaves the job on a queue, at worst twice.
2. Where a copy is not safe none is made: the job goes back to the head by itself, and its attempt is counted in memory.
   Not safe: a queue that is full (for it), a ring that discards, a queue with fanout children, a raw item, an envelope
   whose expiry is not known or over, a server that refuses or does not answer, or that has perhaps put the job back.
3. A job whose last attempt failed goes to the dead letters; where these take none, it goes where it would have gone.
4. The queue of a job may be deleted meanwhile, here or elsewhere, or its connection lost, which puts it back: then
   nothing is copied. Kestrel is asked just before each copy; where it does not tell, the job survives.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass

from gateway.config.policies import Retry
from gateway.delivery.attempts import Attempts
from gateway.delivery.backend import Backend
from gateway.delivery.dead_letters.store import DeadLetters, Stored, store
from gateway.delivery.queues.catalog import Catalog, Queue
from gateway.delivery.queues.copy_safety import CopySafety
from gateway.envelope.read import Job, raw, unwrap
from gateway.envelope.rewrite import DeadReason, has_known_ttl, next_attempt
from gateway.envelope.times import wire_expiry
from gateway.errors import BackendRefused, LeaseLost, OutcomeUnknown, QueueDeleted
from gateway.leases.lease import Disposition, Lease, OpenRead, Place, State


@dataclass(frozen=True, slots=True)
class MoveStatistics:
    """moved: copies to the tail. buried: to the dead letters. kept: jobs that stayed at the head though they should
    have moved, by why. doubled: moves whose original may be on its queue beside its copy.
    """

    moved: int
    buried: int
    kept: dict[str, int]
    doubled: int


class Moves:
    """Moves jobs. tasks: the lifespan's group. max_attempts: of queues whose policy has none."""

    def __init__(self, backend: Backend, catalog: Catalog, tasks: asyncio.TaskGroup, *, max_attempts: int) -> None:
        self.dead_letters = DeadLetters(backend, catalog)
        self.attempts = Attempts()
        self._backend = backend
        self._facts = CopySafety(backend, tasks)
        self._max_attempts = max_attempts
        self._moved = 0
        self._buried = 0
        self._doubled = 0
        self._kept: Counter[str] = Counter()

    def mover(self, queue: Queue) -> QueueMover:
        """What moves a queue's jobs from their consumers."""
        return QueueMover(self, queue)

    def max_attempts(self, queue: Queue) -> int:
        """How often a job of the queue is delivered before it is a dead letter."""
        return queue.policy.max_attempts or self._max_attempts

    def statistics(self) -> MoveStatistics:
        return MoveStatistics(self._moved, self._buried, dict(self._kept), self._doubled)

    async def bury(self, queue: Queue, read: OpenRead, *, death: DeadReason, attempts: int, error: str = "") -> Stored:
        """The job is a dead letter and no longer on its queue when this is YES; else it is still set aside.

        Raises: as `OpenRead.confirm`: the dead letter is there, and the job perhaps still on its queue.
        Cancelled: the job may be in both places.
        """
        job = job_of(queue, read)
        stored = await self.dead_letters.add(queue, job, read.data, death=death, attempts=attempts, error=error)
        if stored is Stored.YES:
            await self._confirm(read)
            self._buried += 1
        return stored

    async def may_copy(self, lease: Lease) -> bool:
        """Whether a copy of the job may be made at all; else it is due to go back. Raises: QueueDeleted, LeaseLost."""
        if await self._facts.still_aside(_here(lease)):
            return True
        self._keep("perhaps-back")
        return False

    async def to_tail(self, queue: Queue, lease: Lease, reason: str) -> Stored:
        """The job is at the tail as its next attempt when this is YES; else it is still set aside.

        Raises: QueueDeleted; LeaseLost: no copy was made. Cancelled: as `bury`.
        """
        read = _held(lease)
        job = job_of(queue, read)
        copy = next_attempt(job, read.data, lease.attempt + 1, reason)
        if copy is None:
            return self._keep("raw")
        if not has_known_ttl(job, read.data):
            return self._keep("unknown-ttl")
        now_s = time.time()
        if copy.expires_s is not None and copy.expires_s <= now_s:
            return self._keep("expired")
        against = await self._facts.against_copy(queue.key)
        if against:
            return self._keep(against)
        _here(lease)
        counted = self.attempts.forget(lease.key, lease.known_by)
        stored = await store(self._backend, queue.key, copy.data, wire_expiry(copy.expires_s, now_s))
        if stored is not Stored.YES:
            if counted:
                self.attempts.returned(lease.key, lease.known_by, counted)
            return self._keep("not-stored" if stored is Stored.NO else "not-answered", stored)
        with contextlib.suppress(LeaseLost, BackendRefused, OutcomeUnknown):
            await self._confirm(_held(lease))
            self._moved += 1
        return stored  # the copy is there, whatever became of the original

    async def _confirm(self, read: OpenRead) -> None:
        try:
            await read.confirm()
        except (LeaseLost, BackendRefused, OutcomeUnknown):
            self._doubled += 1
            raise

    def _keep(self, why: str, stored: Stored = Stored.NO) -> Stored:
        self._kept[why] += 1
        return stored


class QueueMover:
    """Moves one queue's jobs from their consumers. Implements gateway.leases.lease.Mover."""

    __slots__ = ("_moves", "_queue")

    def __init__(self, moves: Moves, queue: Queue) -> None:
        self._moves = moves
        self._queue = queue

    def target(self, disposition: Disposition) -> Place:
        """The place that was asked for, outright or by policy."""
        if disposition.state is State.REJECTED:
            return Place.DEAD
        return disposition.asked or self._by_policy()

    def is_last(self, lease: Lease) -> bool:
        """Whether this attempt is the last that the job has."""
        return lease.attempt >= self._moves.max_attempts(self._queue)

    async def move(self, lease: Lease, disposition: Disposition) -> Place:
        """The job is at the place that is returned.

        Raises: QueueDeleted: the job is gone with its queue. LeaseLost: it is back on its queue. Of a rejected job also
        LeaseLost and BackendRefused: it is a dead letter, and is back on its queue, too; OutcomeUnknown: it may be.
        Cancelled: the job may be in two places, if the caller gives the read back.
        """
        place = await self._copy(lease, disposition)
        if place is Place.HEAD:
            read = _held(lease)
            self._moves.attempts.returned(lease.key, lease.known_by)
            await read.abort()
        return place

    async def _copy(self, lease: Lease, disposition: Disposition) -> Place:
        """Where the job is now; HEAD: still set aside."""
        target = self.target(disposition)
        buried = target is Place.DEAD or self.is_last(lease)
        stored = Stored.NO
        if (target is Place.HEAD and not buried) or not await self._moves.may_copy(lease):
            return Place.HEAD
        if buried:
            stored = await self._bury(lease, disposition)
            if stored is Stored.YES:
                self._moves.attempts.forget(lease.key, lease.known_by)
                return Place.DEAD
            target = self._by_policy() if target is Place.DEAD else target
        if target is Place.TAIL and stored is Stored.NO:
            stored = await self._moves.to_tail(self._queue, lease, disposition.reason)
            if stored is Stored.YES:
                return Place.TAIL
        return Place.HEAD

    async def _bury(self, lease: Lease, disposition: Disposition) -> Stored:
        death = DeadReason.REJECTED if disposition.state is State.REJECTED else DeadReason.MAX_ATTEMPTS
        read = _here(lease)
        try:
            stored = await self._moves.bury(
                self._queue, read, death=death, attempts=lease.attempt, error=disposition.reason
            )
        except (LeaseLost, BackendRefused, OutcomeUnknown):
            if disposition.state is State.REJECTED:
                raise
            return Stored.YES
        return stored

    def _by_policy(self) -> Place:
        return Place.HEAD if self._queue.policy.retry is Retry.HEAD else Place.TAIL


def job_of(queue: Queue, read: OpenRead) -> Job:
    """The job in an item, as the queue's policy has it read."""
    return raw(read.data) if queue.policy.raw else unwrap(read.data)


def _held(lease: Lease) -> OpenRead:
    """What the lease holds. Raises QueueDeleted where it has ended meanwhile, which only that can do."""
    if lease.read is None:
        raise QueueDeleted("the queue was deleted and the job with it")
    return lease.read


def _here(lease: Lease) -> OpenRead:
    """What the lease holds, which is still set aside as far as is known. Raises: LeaseLost; as `_held`."""
    read = _held(lease)
    if read.lost:
        raise LeaseLost("the connection to Kestrel was lost and the job is back on its queue")
    return read
