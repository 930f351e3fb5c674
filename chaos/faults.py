"""Planted faults: gateways that break a promise, for the checker to be shown to notice.

Each is an application for `serve --app chaos.faults:NAME`, patched in the worker that runs it; the gateway itself has
no hook for this. Every fault needs something that is killed at the right instant, or a job that is given back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from gateway import app
from gateway.app import Gateway, WorkerContext
from gateway.common.multiplex.frames import Frame, FrameKind
from gateway.coverage import Coverage, Covered
from gateway.delivery.dead_letters.store import Stored, store
from gateway.delivery.delay.held_job import HeldJob
from gateway.delivery.delay.holding import HoldingQueues
from gateway.delivery.moves import Moves, job_of
from gateway.delivery.pause import Pause, Pauses
from gateway.delivery.queues.catalog import Queue
from gateway.envelope.rewrite import next_attempt
from gateway.kestrel.fanout import Fanout
from gateway.kestrel.multiplex.channel import BrokerChannel
from gateway.kestrel.polls.preferred import PreferredPoll
from gateway.kestrel.server.pinned_read import PinnedRead
from gateway.leases.lease import Lease
from gateway.settings import Settings

GAP_S = 0.8
"""How long the broken promise is open: what is killed then shows it."""

__all__ = [
    "FAULTS",
    "WorkerContext",
    "ack_before_confirm",
    "cancelled_item_dropped",
    "delay_in_memory",
    "delay_that_is_cut_short",
    "drop_instead_of_give_back",
    "move_that_confirms_first",
    "pause_in_one_worker",
    "several_queues_that_drop_losers",
    "subscription_on_one_server",
]

_tasks: set[asyncio.Task[None]] = set()


def ack_before_confirm(settings: Settings, context: WorkerContext) -> Gateway:
    """Says that a job is gone, and asks Kestrel to remove it a moment later."""
    confirm = PinnedRead.confirm

    async def later(read: PinnedRead) -> None:
        await asyncio.sleep(GAP_S)
        await confirm(read)

    async def at_once(read: PinnedRead) -> None:
        _begin(later(read))

    _patch(PinnedRead, "confirm", at_once)
    _patch(PinnedRead, "start_confirm", lambda _read, _then: False)  # so that acks await `confirm`
    return app.create_app(settings, context)


def drop_instead_of_give_back(settings: Settings, context: WorkerContext) -> Gateway:
    """Removes a job that should go back to the head of its queue."""
    give_back = PinnedRead.give_back

    async def drop(read: PinnedRead) -> None:
        try:
            await read.confirm()
        finally:
            give_back(read)

    _patch(PinnedRead, "abort", PinnedRead.confirm)
    _patch(PinnedRead, "give_back", lambda read: _begin(drop(read)))
    return app.create_app(settings, context)


def move_that_confirms_first(settings: Settings, context: WorkerContext) -> Gateway:
    """Removes a job from its place and puts its copy on the tail a moment later, where it should do the reverse."""

    async def to_tail(moves: Moves, queue: Queue, lease: Lease, reason: str) -> Stored:
        read = lease.read
        assert read is not None
        copy = next_attempt(job_of(queue, read), read.data, lease.attempt + 1, reason)
        assert copy is not None
        await read.confirm()
        await asyncio.sleep(GAP_S)
        return await store(moves._backend, queue.key, copy.data, 0)

    _patch(Moves, "to_tail", to_tail)
    return app.create_app(settings, context)


def delay_in_memory(settings: Settings, context: WorkerContext) -> Gateway:
    """Keeps a delayed job in the worker until it is due."""

    async def later(holding: HoldingQueues, job: HeldJob) -> None:
        await asyncio.sleep(job.due_ms / 1000 - holding.clock.wall_s())
        await holding._backend.put(job.queue, job.data)

    async def hold(holding: HoldingQueues, job: HeldJob) -> None:
        _begin(later(holding, job))

    _patch(HoldingQueues, "hold", hold)
    return app.create_app(settings, context)


def delay_that_is_cut_short(settings: Settings, context: WorkerContext) -> Gateway:
    """Brings a delayed job after half of its delay."""
    whole = HoldingQueues.hold

    async def hold(holding: HoldingQueues, job: HeldJob) -> None:
        now_ms = round(holding.clock.wall_s() * 1000)
        await whole(holding, replace(job, due_ms=(now_ms + job.due_ms) // 2))

    _patch(HoldingQueues, "hold", hold)
    return app.create_app(settings, context)


def pause_in_one_worker(settings: Settings, context: WorkerContext) -> Gateway:
    """Only the worker that was asked knows of a pause."""
    begin, of, paused = Pauses.begin, Pauses.of, Pauses.paused
    known: set[str] = set()

    async def begun(pauses: Pauses, queue: Queue, until_s: float | None, reason: str) -> Coverage:
        known.add(queue.key)
        return await begin(pauses, queue, until_s, reason)

    def pause_of(pauses: Pauses, queue: Queue) -> Pause | None:
        return of(pauses, queue) if queue.key in known else None

    _patch(Pauses, "begin", begun)
    _patch(Pauses, "of", pause_of)
    _patch(Pauses, "paused", lambda pauses, queue: queue.key in known and paused(pauses, queue))
    return app.create_app(settings, context)


def subscription_on_one_server(settings: Settings, context: WorkerContext) -> Gateway:
    """Creates a subscription on one server only."""

    async def create(fanout: Fanout, key: str, _limit: int) -> Covered[bool]:
        await fanout._members()[0].peek(key)
        return Covered(True, None)

    async def none(_fanout: Fanout, _of: object) -> int:
        return 0

    _patch(Fanout, "create", create)
    _patch(Fanout, "ensure", none)
    _patch(Fanout, "prepare", none)
    return app.create_app(settings, context)


def several_queues_that_drop_losers(settings: Settings, context: WorkerContext) -> Gateway:
    """Asks all queues of a poll of several queues, and removes the jobs of those that it does not serve."""
    cancel = PreferredPoll.cancel

    async def later(poll: PreferredPoll) -> None:
        for key in poll._keys:  # on a slow machine the first queue has a job, and no other one would be asked
            poll._start(key, 0.0)
        await asyncio.sleep(GAP_S)
        for each in poll._polls:
            if (item := each.item_now()) is not None:
                _begin(item.confirm())
        cancel(poll)

    def drop(poll: PreferredPoll) -> None:
        poll._cancelled = True
        _begin(later(poll))

    _patch(PreferredPoll, "cancel", drop)
    return app.create_app(settings, context)


def cancelled_item_dropped(settings: Settings, context: WorkerContext) -> Gateway:
    """Removes an item of the multiplexed connection that nobody waits for any more."""
    handle = BrokerChannel.handle

    def drop(channel: BrokerChannel, message: Frame) -> None:
        if message.kind == FrameKind.ITEM and message.id not in channel._answers:
            channel.confirm(message.id, lambda _code, _why: None)
        else:
            handle(channel, message)

    _patch(BrokerChannel, "handle", drop)
    return app.create_app(settings, context)


FAULTS: dict[str, Callable[[Settings, WorkerContext], Gateway]] = {
    each.__name__: each
    for each in (
        ack_before_confirm,
        drop_instead_of_give_back,
        move_that_confirms_first,
        delay_in_memory,
        delay_that_is_cut_short,
        pause_in_one_worker,
        subscription_on_one_server,
        several_queues_that_drop_losers,
        cancelled_item_dropped,
    )
}


def _begin(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.get_running_loop().create_task(work)
    _tasks.add(task)
    task.add_done_callback(_ended)


def _ended(task: asyncio.Task[None]) -> None:
    _tasks.discard(task)
    if not task.cancelled():
        task.exception()


def _patch(owner: type, name: str, replacement: Callable[..., Any]) -> None:
    setattr(owner, name, replacement)
