"""What Kestrel tells of a queue that decides whether a job may be copied to its tail. Keeps it for a moment only.

Kestrel has no command that shows a queue's configuration. A ring (`discard_old_when_full`) shows once it has discarded
something, so a ring that was never full is not known for one; `retry = "head"` in its policy says what Kestrel cannot.
Fanout children are named in the queue's figures. Source: kestrel-wire.md, "Set"; transcript 7 and 16c.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from gateway.delivery.backend import Backend
from gateway.errors import BackendUnavailable

log = logging.getLogger(__name__)

FRESH_S: Final = 0.25
"""How old an answer may be: a burst of expiries asks once, and a new child is seen almost at once."""
_KEPT: Final = 1024


class Facts:
    """Why a copy is unsafe on a queue, by key. tasks: the lifespan's group, which questions belong to."""

    def __init__(self, backend: Backend, tasks: asyncio.TaskGroup) -> None:
        self._backend = backend
        self._tasks = tasks
        self._asked: dict[str, tuple[float, asyncio.Task[str]]] = {}

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
