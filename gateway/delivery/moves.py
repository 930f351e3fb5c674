"""What happens to a job that its consumer did not finish: it moves to the tail or to the dead letters, or goes back.

1. A move is a copy over another connection, seen stored, and only then the confirm of the original. An interruption in
   between leaves the job on a queue, at worst twice.
2. If a copy is not safe, none is made: the job goes back to the head, and its attempt is counted in memory. A copy is
   not safe if the queue is full (for the copy), discards old items or has fanout children, if the item is raw, if the
   expiry of the envelope is unknown or past, or if the server refuses, does not answer or may have put the job back.
3. A job whose last attempt failed goes to the dead letters; if these refuse it, it goes where it would otherwise go.
4. The queue of a job may be deleted at any time, here or elsewhere, or its connection may be lost, which puts it back.
   Then nothing is copied. Kestrel is asked just before each copy; if it cannot tell, the copy is made.
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
    """moved: copies to the tail. dead_letters: copies to the dead letters. kept: jobs that stayed at the head although
    they were to move, by reason. doubled: moves whose original may still be on its queue, in addition to its copy.
    """

    moved: int
    dead_letters: int
    kept: dict[str, int]
    doubled: int


class Moves:
    """Moves jobs. tasks: the lifespan's group. max_attempts: for queues whose policy sets none."""

    def __init__(self, backend: Backend, catalog: Catalog, tasks: asyncio.TaskGroup, *, max_attempts: int) -> None:
        self.dead_letters = DeadLetters(backend, catalog)
        self.attempts = Attempts()
        self._backend = backend
        self._copy_safety = CopySafety(backend, tasks)
        self._max_attempts = max_attempts
        self._moved = 0
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
        return MoveStatistics(self._moved, self._dead_lettered, dict(self._kept), self._doubled)

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

    async def may_copy(self, lease: Lease) -> bool:
        """Whether the job may be copied; if not, it must go back. Raises: QueueDeleted, LeaseLost."""
        if await self._copy_safety.still_open(_here(lease)):
            return True
        self._keep("perhaps-back")
        return False

    async def to_tail(self, queue: Queue, lease: Lease, reason: str) -> Stored:
        """Moves the job to the tail as its next attempt. YES: it is there; otherwise it is still set aside.

        Raises: QueueDeleted; LeaseLost if no copy was made. Cancelled: as for `to_dead_letters`.
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
        against = await self._copy_safety.against_copy(queue.key)
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

    async def move(self, lease: Lease, disposition: Disposition) -> Place:
        """Moves the job and returns its place.

        Raises: QueueDeleted: the job is gone with its queue. LeaseLost: it is back on its queue. For a rejected job
        also
        LeaseLost and BackendRefused: it is a dead letter and also back on its queue; OutcomeUnknown: it may be both.
        Cancelled: the job may be in two places, if the caller gives the read back.
        """
        place = await self._copy(lease, disposition)
        if place is Place.HEAD:
            read = _held(lease)
            self._moves.attempts.returned(lease.key, lease.known_by)
            await read.abort()
        return place

    async def _copy(self, lease: Lease, disposition: Disposition) -> Place:
        """Where the job is now; HEAD means that it is still set aside."""
        target = self.target(disposition)
        dies = target is Place.DEAD or self.is_last(lease)
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
        raise QueueDeleted("the queue was deleted, and the job with it")
    return lease.read


def _here(lease: Lease) -> OpenRead:
    """The open read of the lease, if its item is still set aside as far as is known. Raises: LeaseLost; as `_held`."""
    read = _held(lease)
    if read.lost:
        raise LeaseLost("the connection to Kestrel was lost, and the job is back on its queue")
    return read
