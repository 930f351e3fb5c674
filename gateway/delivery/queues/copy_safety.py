"""Facts from Kestrel that decide whether a job may be copied. They are cached for a moment only.

Kestrel has no command that shows a queue's configuration. A queue with `discard_old_when_full` can be recognized only
after it has discarded an item, so one that was never full is not recognized; `retry = "head"` in its policy declares
it. Source: kestrel-wire.md, "Set"; transcript 7 and 16c.

A server lists fanout children only with the queue's own statistics. They may exist before the queue and remain after
it, so if a server does not have the queue, the names of all queues are read. Source: kestrel-wire.md, "Set".

A queue may be deleted through another replica, or by a memcache client, while one of its jobs is leased here. A copy
would bring that job back. `delete` removes open reads, too, so a server that has no open read of the queue does not
hold our job either. Source: transcript 8b; Kestrel 2.4.8.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from gateway.delivery.backend import Backend
from gateway.errors import BackendUnavailable
from gateway.leases.lease import OpenRead
from gateway.names.namespace import FANOUT
from gateway.queue_stats import MergedStats

log = logging.getLogger(__name__)

FRESH_S: Final = 0.25
"""The age of a cached answer: a burst of expiries asks once, and a new child is seen almost at once."""
_KEPT: Final = 1024


class CopySafety:
    """Why a copy is unsafe on a queue, by key. tasks: the lifespan's group, to which questions belong."""

    def __init__(self, backend: Backend, tasks: asyncio.TaskGroup) -> None:
        self._backend = backend
        self._tasks = tasks
        self._asked: dict[str, tuple[float, asyncio.Task[str]]] = {}
        self._unsent: dict[tuple[str, str], asyncio.Task[bool]] = {}

    async def against_copy(self, key: str) -> str:
        """Why no copy should be put on the queue: `ring`, `children`, or `unknown` if no server answers; empty: safe.

        Cancelled: the question continues for others that share it.
        """
        now_s = time.monotonic()
        asked_s, task = self._asked.get(key, (0.0, None))
        if task is None or now_s - asked_s > FRESH_S:
            if len(self._asked) >= _KEPT:
                self._asked.clear()
            task = self._tasks.create_task(self._ask(key))
            self._asked[key] = (now_s, task)
        return await asyncio.shield(task)

    async def still_open(self, read: OpenRead) -> bool:
        """Whether the item is still set aside, as far as its server can tell.

        Asks each time; callers in the same turn of the loop share the question. False: the server may have put the item
        back, so no copy must be made, and giving it back is right in any case. An answer that fails, or comes from
        another server or from before a restart, proves nothing. If the queue seems deleted, the connection that holds
        the item is asked again.

        Raises: QueueDeleted: the job is gone with its queue, and its read was given back; LeaseLost.
        Cancelled: the read's connection may be closed.
        """
        at = (read.key, read.server)
        task = self._unsent.get(at)
        if task is None:
            task = self._unsent[at] = self._tasks.create_task(self._may_be_dropped(at))
        return not await asyncio.shield(task) or await read.check()

    async def _may_be_dropped(self, at: tuple[str, str]) -> bool:
        del self._unsent[at]
        try:
            return await self._backend.may_have_dropped(*at)
        except Exception:
            log.exception("reading the open reads of a queue failed")
            return False

    async def _ask(self, key: str) -> str:
        try:
            merged = await self._backend.queue_stats(key)
            stats = merged.queues.get(key)
            if stats is None:
                return "unknown"
            if await has_children(self._backend, key, merged):
                return "children"
        except BackendUnavailable:
            return "unknown"
        except Exception:
            log.exception("reading the statistics of a queue failed")
            return "unknown"
        return "ring" if stats.discarded else ""


async def has_children(backend: Backend, key: str, merged: MergedStats) -> bool:
    """Whether fanout children would get items that are put on the queue, on any server. merged: its statistics.

    Raises BackendUnavailable.
    """
    stats = merged.queues.get(key)
    if stats is not None and stats.children:
        return True
    if not merged.coverage.partial and all(key in queues for queues in merged.servers.values()):
        return False  # each server has listed its children
    return any(each.startswith(key + FANOUT) for each in await backend.keys())
