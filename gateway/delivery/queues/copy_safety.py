"""What Kestrel tells of a queue that decides whether a job may be copied. Keeps it for a moment only.

Kestrel has no command that shows a queue's configuration. A ring (`discard_old_when_full`) shows once it has discarded
something, so a ring that was never full is not known for one; `retry = "head"` in its policy says what Kestrel cannot.
Fanout children are named in the queue's figures. Source: kestrel-wire.md, "Set"; transcript 7 and 16c.

A queue may be deleted through another replica, or by a memcache client, while a job of it is leased here; a copy would
bring that job back. `delete` takes what is set aside along, so a server that holds nothing of the queue for anyone does
not hold our job, either. Source: transcript 8b; Kestrel 2.4.8.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from gateway.delivery.backend import Backend
from gateway.errors import BackendUnavailable
from gateway.leases.lease import OpenRead

log = logging.getLogger(__name__)

FRESH_S: Final = 0.25
"""How old an answer may be: a burst of expiries asks once, and a new child is seen almost at once."""
_KEPT: Final = 1024


class CopySafety:
    """Why a copy is unsafe on a queue, by key. tasks: the lifespan's group, which questions belong to."""

    def __init__(self, backend: Backend, tasks: asyncio.TaskGroup) -> None:
        self._backend = backend
        self._tasks = tasks
        self._asked: dict[str, tuple[float, asyncio.Task[str]]] = {}
        self._unsent: dict[tuple[str, str], asyncio.Task[bool]] = {}

    async def against_copy(self, key: str) -> str:
        """Why no copy should be put there: `ring`, `children`, `unknown` where no server says; empty: nothing.

        Cancelled: the question goes on for others who share it.
        """
        now_s = time.monotonic()
        asked_s, task = self._asked.get(key, (0.0, None))
        if task is None or now_s - asked_s > FRESH_S:
            if len(self._asked) >= _KEPT:
                self._asked.clear()
            task = self._tasks.create_task(self._ask(key))
            self._asked[key] = (now_s, task)
        return await asyncio.shield(task)

    async def still_aside(self, read: OpenRead) -> bool:
        """Whether nothing that its server says just now speaks against the item being set aside still.

        Asked anew each time, but for those who ask in the same turn of the loop. False: the server has perhaps put it
        back; no copy is due then, and giving it back is right in any case. Nothing is concluded from an answer that
        fails, or from one of another server, or of the same before a restart: what looks like a deleted queue is asked
        again on the connection that holds the item.

        Raises: QueueDeleted: the job went with its queue, its read was given back; LeaseLost.
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
            log.exception("asking what is set aside of a queue failed")
            return False

    async def _ask(self, key: str) -> str:
        try:
            stats = await self._backend.stats_of(key)
        except BackendUnavailable:
            return "unknown"
        except Exception:
            log.exception("asking for a queue's figures failed")
            return "unknown"
        if stats is None:
            return "unknown"
        return "children" if stats.children else "ring" if stats.discarded else ""
