"""Short callbacks of which very many can be due at one instant, such as the ends of a thousand waits.

1. One turn of the event loop runs such calls for SLICE_S; other work runs before the next ones.
2. Tenants take turns, however many calls each of them has. The calls of one tenant run in order.
3. A call runs in a later turn than the one in which it was added, so answers that have arrived are read before it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeAlias

from gateway.fairness.fair_queue import FairQueue
from gateway.fairness.turns import SLICE_S

Call: TypeAlias = Callable[[], None]


class PacedCalls:
    """Calls that wait for their turn. Used by one event loop. clock: seconds, monotonic."""

    __slots__ = ("_clock", "_running", "_waiting")

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._waiting: FairQueue[Call] = FairQueue()
        self._running = False

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, tenant: str, call: Call) -> None:
        """Makes the call in a later turn of the loop. A call that cannot be made any more must do nothing."""
        self._waiting.put(tenant, call)
        if not self._running:
            self._running = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        ends_s = self._clock() + SLICE_S
        try:
            while self._waiting:
                self._waiting.get()()
                if self._clock() > ends_s:
                    break
        finally:
            self._running = bool(self._waiting)
            if self._running:
                asyncio.get_running_loop().call_soon(self._run)
