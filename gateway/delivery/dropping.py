"""Jobs whose time is over, dropped beside the poll that met them: it goes on to the next while Kestrel takes them off.

1. Each is confirmed by itself, after it was looked at: nothing is confirmed that was not over.
2. AT_ONCE at most are under way for one poll; then it waits for one of them.
3. They are tasks of the lifespan's group: a poll that goes away leaves none half done.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from gateway.errors import BackendRefused, LeaseLost, OutcomeUnknown
from gateway.leases.lease import OpenRead

log = logging.getLogger(__name__)

AT_ONCE: Final = 32
"""Kestrel writes what comes together at once; more connections than that gain little."""


class Dropping:
    """What one poll drops. tasks: the lifespan's group."""

    __slots__ = ("_tasks", "_under_way")

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        self._under_way: set[asyncio.Task[None]] = set()

    async def drop(self, read: OpenRead) -> None:
        """The item is on its way off the queue. Cancelled: it is still the caller's."""
        if len(self._under_way) >= AT_ONCE:
            await self.one_ended()
        task = self._tasks.create_task(_drop(read))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def one_ended(self) -> bool:
        """Returns when one more of them is settled; False when none is under way."""
        if not self._under_way:
            return False
        await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        return True


async def _drop(read: OpenRead) -> None:
    """The item is gone, or back on its queue, where it is dropped again. Cancelled: one of the two."""
    try:
        await read.confirm()
    except (LeaseLost, BackendRefused, OutcomeUnknown):
        pass
    except Exception:
        log.exception("dropping a job failed")
    finally:
        read.give_back()
