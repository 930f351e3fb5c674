"""What the tests of the Kestrel client share."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, Final

from gateway.kestrel.client import Kestrel
from gateway.settings import Settings

CONNECT_LIMIT: Final = {"kestrel_connect_timeout_s": 20.0}
"""For tests that do not say otherwise: while the machine stalls no server counts as lost."""


@contextlib.asynccontextmanager
async def client(
    *addresses: str,
    ready: bool = True,
    share: float = 1.0,
    tenant_of: Callable[[str], str] = lambda _: "",
    worker_sockets: Mapping[str, str] | None = None,
    **settings: Any,
) -> AsyncIterator[Kestrel]:
    """A started client; with `ready`, one that has reached its servers. Leaves no task and no connection behind."""
    before = asyncio.all_tasks()
    kestrel = Kestrel(
        addresses,
        Settings(**CONNECT_LIMIT | settings),
        share=share,
        tenant_of=tenant_of,
        worker_sockets=worker_sockets or {},
    )
    await kestrel.start()
    try:
        if ready:
            await until(lambda: all(backend.state.value == "up" for backend in kestrel.backends()))
        yield kestrel
    finally:
        await kestrel.close()
        stats = kestrel.statistics()
        assert not any(server.room.gets.held for server in kestrel._servers), "a get that is over keeps no place"
        assert (stats.connections, stats.waiters, stats.open_waits, stats.waited_queues) == (0, 0, 0, 0)
    left = asyncio.all_tasks() - before
    assert not [task for task in left if "_accept_connection" not in repr(task.get_coro())]  # the stand-in's own


async def until(condition: Any, timeout_s: float = 30.0) -> None:
    """Returns when `condition()` holds; fails after `timeout_s`. The pauses grow, as those of tests.lab.waiting do."""
    began_s = time.monotonic()
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(min(max((time.monotonic() - began_s) / 20, 0.001), 0.02))


async def cancel_after(steps: int, work: Coroutine[Any, Any, Any]) -> bool:
    """Runs `work` as a task and cancels it after that many turns of the loop. Whether it was cancelled."""
    task = asyncio.ensure_future(work)
    for _ in range(steps):
        await asyncio.sleep(0)
        if task.done():
            break
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False
