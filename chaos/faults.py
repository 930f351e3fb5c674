"""Three planted faults: gateways that break a promise, for the checker to be shown to notice.

Each is an application for `serve --app chaos.faults:NAME`, patched in the worker that runs it; the gateway itself has
no hook for this. Every fault needs something that is killed at the right instant, or a job that is given back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from gateway import app
from gateway.app import Gateway, WorkerContext
from gateway.delivery.dead_letters.store import Stored, store
from gateway.delivery.moves import Moves, job_of
from gateway.delivery.queues.catalog import Queue
from gateway.envelope.rewrite import next_attempt
from gateway.kestrel.server.pinned_read import PinnedRead
from gateway.leases.lease import Lease
from gateway.settings import Settings

GAP_S = 0.8
"""How long the broken promise is open: what is killed then shows it."""

__all__ = ["FAULTS", "WorkerContext", "ack_before_confirm", "drop_instead_of_give_back", "move_that_confirms_first"]

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


FAULTS: dict[str, Callable[[Settings, WorkerContext], Gateway]] = {
    each.__name__: each for each in (ack_before_confirm, drop_instead_of_give_back, move_that_confirms_first)
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
