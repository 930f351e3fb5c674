"""Redrive: moves dead letters back to the queue they come from, as first attempts. Knows no leases.

1. A dead letter is put on its queue, seen stored, and only then confirmed. It is never lost, but may exist twice.
2. If queues share their dead letters, those of other queues are skipped: taken, and then given back to their places.
3. A step that has begun ends before the next one, even if the request is cancelled. Dead letters that are given back go
   to the head of their queue, so they keep their order only if they are given back one after the other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from gateway.coverage import Coverage, Covered, least
from gateway.delivery.backend import Backend, Poll
from gateway.delivery.dead_letters.store import DeadLetters
from gateway.delivery.queues.catalog import Queue
from gateway.delivery.queues.copy_safety import has_children
from gateway.delivery.subscriptions.existing import no_subscription
from gateway.envelope.rewrite import restored, source_queue
from gateway.envelope.times import wire_expiry
from gateway.errors import GatewayError, QueueHasChildren, QueueNotFound
from gateway.leases.lease import OpenRead

T = TypeVar("T")

LONGEST_S: Final = 20.0
"""Many proxies do not wait longer for a request. The answer says how many are left."""
MAX_SKIPPED: Final = 100


@dataclass(frozen=True, slots=True)
class Redriven:
    """redriven: dead letters that are jobs again. expired: dropped as expired. left: those that remain."""

    redriven: int
    expired: int
    left: int


@dataclass(slots=True)
class _Run:
    """One redrive in progress. skipped: dead letters of other queues, in order."""

    queue: Queue
    limit: int
    until_s: float
    skipped: list[OpenRead]
    coverage: Coverage | None
    redriven: int = 0
    expired: int = 0
    trouble: GatewayError | None = None

    @property
    def over(self) -> bool:
        done = self.redriven + self.expired >= self.limit or len(self.skipped) >= MAX_SKIPPED
        return done or self.trouble is not None or time.monotonic() > self.until_s


class Redrive:
    """Moves dead letters back. tasks: the lifespan's group, in which every dead letter that was started is finished."""

    def __init__(self, backend: Backend, dead_letters: DeadLetters, tasks: asyncio.TaskGroup) -> None:
        self._backend = backend
        self._dead_letters = dead_letters
        self._tasks = tasks

    async def redrive(self, queue: Queue, limit: int) -> Covered[Redriven | GatewayError]:
        """Moves up to `limit` dead letters back to the queue; servers that did not take part may have more.

        QueueHasChildren: nothing is moved. QueueNotFound: the queue does not exist and has no dead letters. QueueFull,
        JobTooLarge, BackendUnavailable, OutcomeUnknown: none could be moved back. Raises BackendUnavailable.
        Cancelled: what was started is finished, the others stay.
        """
        merged = await self._backend.queue_stats(queue.key)
        stats = merged.queues.get(queue.key)
        if queue.is_child and stats is None:
            return Covered(no_subscription(queue), merged.coverage)
        if await has_children(self._backend, queue.key, merged):
            error = QueueHasChildren(f"{queue.name!r} has fanout children, and each of them would get the jobs again")
            return Covered(error, merged.coverage)
        run = _Run(queue, limit, time.monotonic() + LONGEST_S, [], coverage=merged.coverage)
        left = 0
        for key in self._dead_letters.keys(queue):
            left += await self._bring_back(run, key)
        if run.trouble is not None and not run.redriven:
            return Covered(run.trouble, run.coverage)
        if stats is None and not (run.redriven or run.expired or left):
            missing = QueueNotFound(f"there is no queue {queue.name!r}, and it has no dead letters")
            return Covered(missing, run.coverage)
        return Covered(Redriven(run.redriven, run.expired, left), run.coverage)

    async def _bring_back(self, run: _Run, key: str) -> int:
        """Goes once through the dead letters that exist at the start; returns how many of the queue's may be left."""
        merged = await self._backend.queue_stats(key)
        run.coverage = least(run.coverage, merged.coverage)
        stats = merged.queues.get(key)
        if stats is None:
            return 0
        before = run.redriven + run.expired
        mine_only = self._dead_letters.is_shared(run.queue, key)
        try:
            for _ in range(stats.items):
                if run.over:
                    break
                waiter = self._backend.wait(key, 0, run.queue.tenant)
                read = await self._completed(_take(run.skipped, waiter))
                if isinstance(read, GatewayError):
                    raise read
                if read is None:
                    run.coverage = least(run.coverage, waiter.coverage)
                    break
                if not mine_only or source_queue(read.data) == run.queue.name:
                    await self._completed(self._one(run, run.skipped.pop()))
            others = len(run.skipped)
        finally:
            await self._completed(_put_back(run.skipped))
        return stats.items - others - (run.redriven + run.expired - before)

    async def _completed(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`. Cancelled: returns when `work` has ended, so that the next step follows it."""
        task = self._tasks.create_task(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            raise

    async def _one(self, run: _Run, read: OpenRead) -> None:
        item = restored(read.data)
        now_s = time.time()
        try:
            if item.expires_s is not None and item.expires_s <= now_s:
                await read.confirm()
                run.expired += 1
                return
            await self._backend.put(run.queue.key, item.data, wire_expiry(item.expires_s, now_s))
            run.redriven += 1
            await read.confirm()
        except GatewayError as error:
            run.trouble = error
        finally:
            await read.abort()


async def _take(skipped: list[OpenRead], waiter: Poll) -> OpenRead | GatewayError | None:
    """The next dead letter, put into `skipped`, or the error. A raised error would end the other tasks of the group."""
    try:
        read = await waiter.result()
    except GatewayError as error:
        return error
    if read is not None:
        skipped.append(read)
    return read


async def _put_back(skipped: list[OpenRead]) -> None:
    """Gives them back in reverse order, because each goes to the head."""
    while skipped:
        await skipped.pop().abort()
