"""Delays with a holding queue of their own, which jobs leave when they are due: one move instead of one per level.

A policy's `retry_delay` has few values, and each may delay many jobs. All jobs of such a queue wait the same time.

1. A queue is used only after its delay was stored in the control state, which all workers and replicas follow. So
   every one of them looks at the queue, even one whose policies do not have the delay, or one that starts later.
2. There are at most MOST such delays, and none shorter than SHORTEST_S. Jobs with other delays go through the levels.
"""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.delivery.control.control import Control
from gateway.delivery.control.entries import EntryKind
from gateway.delivery.delay.holding import HoldingQueues
from gateway.errors import BackendUnavailable, OutcomeUnknown

MOST: Final = 32
SHORTEST_S: Final = 0.25
"""Below, a delay needs one or two moves anyway."""

OWN_DELAY: Final[EntryKind[bool]] = EntryKind("own-delay", bool, bool)
"""Named by their milliseconds."""


class OwnDelays:
    """The delays that have a queue. tasks: the lifespan's group."""

    def __init__(self, control: Control, holding: HoldingQueues, tasks: asyncio.TaskGroup) -> None:
        self._entries = control.view(OWN_DELAY)
        self._holding = holding
        self._tasks = tasks
        self._adding = False
        self._entries.on_change(self._changed)
        holding.wanted = self._wanted

    def _wanted(self, wait_ms: int) -> None:
        """A job has this delay, and it has no queue yet."""
        if wait_ms >= SHORTEST_S * 1000 and not self._adding and len(self._entries.items()) < MOST:
            self._adding = True
            self._tasks.create_task(self._add(str(wait_ms)), name="a holding queue for one delay")

    async def _add(self, name: str) -> None:
        try:
            await self._entries.set(name, True)
        except (BackendUnavailable, OutcomeUnknown):
            pass  # the next job with this delay tries again
        finally:
            self._adding = False

    def _changed(self, name: str) -> None:
        if self._entries.get(name) and name.isascii() and name.isdigit():
            self._holding.add_own(int(name))
