"""Redrive: moves dead letters back to the queue they come from, or to another one, as first attempts. Knows no leases.

1. A dead letter is put on its queue, and confirmed only after Kestrel has answered STORED. It is never lost, but may
   exist twice.
2. If queues share their dead letters, those of other queues are skipped: taken, and then given back to their places.
   So are those with another reason than the one that is asked for.
3. A step that has begun ends before the next one, even if the request is cancelled. Dead letters that are given back go
   to the head of their queue, so they keep their order only if they are given back one after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

from gateway.coverage import Coverage, Covered, least
from gateway.delivery.backend import Backend, Poll
from gateway.delivery.dead_letters.store import DeadLetters
from gateway.delivery.queues.catalog import Queue
from gateway.delivery.queues.copy_safety import has_children
from gateway.delivery.queues.quota import Quota
from gateway.delivery.subscriptions.existing import no_subscription
from gateway.envelope.read import Job, body_of, unwrap
from gateway.envelope.rewrite import DeadReason, restored
from gateway.envelope.times import wire_expiry
from gateway.errors import (
    BackendUnavailable,
    GatewayError,
    LeaseLost,
    OutcomeUnknown,
    QueueDeleted,
    QueueHasChildren,
    QueueNotFound,
)
from gateway.leases.lease import OpenRead

T = TypeVar("T")
OnJob: TypeAlias = Callable[[Job], None]
"""Called with each dead letter that is stored as a job again. It must not raise."""

LONGEST_S: Final = 20.0
"""Many proxies do not wait longer for a request. The answer says how many are left."""
MAX_SKIPPED: Final = 100


@dataclass(frozen=True, slots=True)
class RedriveOrder:
    """What to move. most: dead letters. target: None is the queue they come from. reason: None is any.

    rate: the most dead letters a second; 0 is no limit.
    """

    most: int
    target: Queue | None = None
    reason: DeadReason | None = None
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Redriven:
    """redriven: dead letters that are jobs again. expired: dropped as expired. left: those of the queue that remain,
    whatever their reason, with those that other consumers hold open."""

    redriven: int
    expired: int
    left: int


@dataclass(slots=True)
class _Run:
    """One redrive in progress. skipped: dead letters that are not to be moved, in order. next_s: for the rate.
    on_job: None: no callback.
    """

    queue: Queue
    order: RedriveOrder
    until_s: float
    skipped: list[OpenRead]
    coverage: Coverage | None
    on_job: OnJob | None
    redriven: int = 0
    expired: int = 0
    trouble: GatewayError | None = None
    next_s: float = 0.0

    @property
    def target(self) -> Queue:
        return self.order.target or self.queue

    def wants(self, item: bytes, *, shared: bool) -> bool:
        """Whether the dead letter is to be moved. shared: those of other queues are there, too."""
        reason = self.order.reason
        if not self.owns(item, shared=shared):
            return False
        return reason is None or unwrap(item).event.get("deadreason") == reason.value

    def owns(self, item: bytes, *, shared: bool) -> bool:
        """Whether the dead letter is one of the queue."""
        return not shared or unwrap(item).event.get("deadqueue") == self.queue.name

    async def pace(self) -> None:
        """Returns when the rate allows the next dead letter, at the latest when the time of the redrive is over."""
        if not self.order.rate:
            return
        now_s = time.monotonic()
        wait_s = min(self.next_s, self.until_s) - now_s
        self.next_s = max(self.next_s, now_s) + 1 / self.order.rate
        if wait_s > 0:
            await asyncio.sleep(wait_s)

    @property
    def over(self) -> bool:
        done = self.redriven + self.expired >= self.order.most or len(self.skipped) >= MAX_SKIPPED
        return done or self.trouble is not None or time.monotonic() > self.until_s


class Redrive:
    """Moves dead letters back. tasks: the lifespan's group, in which every dead letter that was started is finished."""

    def __init__(self, backend: Backend, dead_letters: DeadLetters, quota: Quota, tasks: asyncio.TaskGroup) -> None:
        self._backend = backend
        self._dead_letters = dead_letters
        self._quota = quota
        self._tasks = tasks

    async def redrive(
        self, queue: Queue, order: RedriveOrder, on_job: OnJob | None = None
    ) -> Covered[Redriven | GatewayError]:
        """Moves dead letters of the queue; servers that did not take part may have more.

        QueueHasChildren: nothing is moved. QueueNotFound: the queue does not exist and has no dead letters. QueueFull,
        JobTooLarge, BackendUnavailable, OutcomeUnknown: none could be moved back. Raises BackendUnavailable,
        TooManyQueues.
        Cancelled: what was started is finished, the others stay.
        """
        try:
            async with self.room(queue, order.target or queue):
                return await self._redrive(queue, order, on_job)
        except (QueueHasChildren, QueueNotFound) as error:
            return Covered(error, None)

    @contextlib.asynccontextmanager
    async def room(self, queue: Queue, target: Queue) -> AsyncIterator[None]:
        """Within the context dead letters of the queue may be put on the target.

        Raises: QueueHasChildren, QueueNotFound for a child that does not exist, TooManyQueues, BackendUnavailable.
        """
        merged = await self._backend.queue_stats(target.key)
        if target.is_child and target.key not in merged.queues:
            raise no_subscription(target, merged.coverage)
        if await has_children(self._backend, target.key, merged):
            raise QueueHasChildren(
                f"{target.name!r} has subscriptions, and each of them would get the jobs again; move them to another "
                "queue with `to`"
            )
        with contextlib.nullcontext() if target.key == queue.key else await self._quota.room(target):
            yield

    async def one(self, queue: Queue, target: Queue, read: OpenRead, on_job: OnJob | None = None) -> Redriven:
        """Moves one dead letter to the target, or drops it if it has expired. Does not count how many are left.

        Raises: QueueFull, JobTooLarge, BackendUnavailable, and NotSupported if its content is empty and the server
        loses or changes empty items: it is still a dead letter. OutcomeUnknown: it may be a job, a dead letter or both.
        """
        expired = not await self._put(queue, target, read.data, on_job)
        try:
            await read.confirm()
        except QueueDeleted:
            pass  # the dead letter is gone with its queue
        except (LeaseLost, BackendUnavailable, OutcomeUnknown) as error:
            if expired:
                raise BackendUnavailable(
                    "the connection to Kestrel was lost; the dead letter may still exist"
                ) from error
            raise OutcomeUnknown("the job is on its queue, but the dead letter may still exist, too") from error
        return Redriven(int(not expired), int(expired), left=0)

    async def _redrive(
        self, queue: Queue, order: RedriveOrder, on_job: OnJob | None
    ) -> Covered[Redriven | GatewayError]:
        merged = await self._backend.queue_stats(queue.key)
        stats = merged.queues.get(queue.key)
        run = _Run(queue, order, time.monotonic() + LONGEST_S, [], merged.coverage, on_job)
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
        others = 0
        shared = self._dead_letters.is_shared(run.queue, key)
        try:
            for _ in range(stats.items):
                if run.over:
                    break
                await run.pace()
                if run.over:  # the time is over
                    break
                waiter = self._backend.wait(key, 0, run.queue.tenant)
                read = await completed(self._tasks, _take(run.skipped, waiter))
                if isinstance(read, GatewayError):
                    raise read
                if read is None:
                    run.coverage = least(run.coverage, waiter.coverage)
                    break
                if run.wants(read.data, shared=shared):
                    await completed(self._tasks, self._one(run, run.skipped.pop()))
                else:
                    others += not run.owns(read.data, shared=shared)
        finally:
            await completed(self._tasks, _put_back(run.skipped))
        held = 0 if shared else stats.open_reads  # of shared ones it is not known whose they are
        return stats.items + held - others - (run.redriven + run.expired - before)

    async def _one(self, run: _Run, read: OpenRead) -> None:
        try:
            if await self._put(run.queue, run.target, read.data, run.on_job):
                run.redriven += 1
                await read.confirm()
            else:
                await read.confirm()
                run.expired += 1
        except GatewayError as error:
            run.trouble = error
        finally:
            await read.abort()

    async def _put(self, queue: Queue, target: Queue, letter: bytes, on_job: OnJob | None) -> bool:
        """Puts the content of a dead letter on the target; False if it has expired. Raises as Backend.put."""
        now_s = time.time()
        item = restored(letter, now_s)
        if item.expires_s is not None and item.expires_s <= now_s:
            return False
        data = item.data
        if target.policy.raw and not queue.policy.raw:
            data = body_of(unwrap(data))  # a raw queue has bodies, not envelopes
        await self._backend.put(target.key, data, wire_expiry(item.expires_s, now_s))
        if on_job is not None:
            on_job(unwrap(letter))
        return True


async def _take(skipped: list[OpenRead], waiter: Poll) -> OpenRead | GatewayError | None:
    """The next dead letter, put into `skipped`, or the error. A raised error would end the other tasks of the group."""
    try:
        read = await waiter.result()
    except GatewayError as error:
        return error
    if read is not None:
        skipped.append(read)
    return read


async def completed(tasks: asyncio.TaskGroup, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`. Cancelled: returns when `work` has ended, so that the next step follows it."""
    task = tasks.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def _put_back(skipped: list[OpenRead]) -> None:
    """Gives them back in reverse order, because each goes to the head."""
    while skipped:
        await skipped.pop().abort()
