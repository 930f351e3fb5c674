"""Drops expired jobs while the poll that found them continues with the next job.

1. Each job is read and confirmed separately, so only expired jobs are removed.
2. At most AT_ONCE are in progress for one poll; then it waits for one of them.
3. They are tasks of the lifespan's group: a poll that ends leaves none of them incomplete.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from gateway.errors import BackendRefused, LeaseLost, OutcomeUnknown, QueueDeleted
from gateway.leases.lease import OpenRead

log = logging.getLogger(__name__)

AT_ONCE: Final = 32
"""Kestrel writes commands that arrive together at once; more connections gain little."""


class ExpiredJobs:
    """The expired jobs that one poll has found. tasks: the lifespan's group."""

    __slots__ = ("_tasks", "_under_way")

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        self._under_way: set[asyncio.Task[None]] = set()

    async def drop(self, read: OpenRead) -> None:
        """Starts dropping the item. Cancelled: the item is still the caller's."""
        if len(self._under_way) >= AT_ONCE:
            await self.one_ended()
        task = self._tasks.create_task(drop_expired(read))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def one_ended(self) -> bool:
        """Returns when one of them has ended; False if none is in progress."""
        if not self._under_way:
            return False
        await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        return True


async def drop_expired(read: OpenRead) -> None:
    """The item is gone, or back on its queue, where a later poll drops it. Cancelled: one of the two."""
    try:
        await read.confirm()
    except (LeaseLost, QueueDeleted, BackendRefused, OutcomeUnknown):
        pass
    except Exception:
        log.exception("dropping a job failed")
    finally:
        read.give_back()
