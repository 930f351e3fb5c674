"""When a connection reads its next request: if several tenants send requests, a few in each turn of the event loop.

A tenant may send a request on each of a thousand connections at one instant. To read them all in one turn would hold
the loop before any limit of the tenant is looked at. A connection is charged to the tenant of its last request; a new
connection has no tenant.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.fairness.loop_time import LoopTime
from gateway.fairness.paced_calls import PacedCalls

AT_ONCE: Final = 4
"""Requests that are read in the turn in which they arrive. To read one and to find its tenant takes about 0.2 ms."""
SLICE_S: Final = 0.0003
"""The time in each turn for reading those that wait. What they begin runs in the next turn, and takes twice as long."""


class RequestStarts:
    """Decides which connection reads its next request in a turn. Used by one event loop."""

    def __init__(self, time: LoopTime) -> None:
        self._time = time
        self._waiting = PacedCalls(time, slice_s=SLICE_S)
        self._begun = 0
        self._turning = False

    def may_read(self, tenant: str) -> bool:
        """Whether a connection of the tenant may read its next request now. Counts it if so."""
        if not (self._time.tenanted and self._time.shared(tenant)):
            return True
        if self._begun >= AT_ONCE or (tenant and not self._time.may_go_on(tenant)):
            return False
        self._begun += 1
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)
        return True

    def later(self, tenant: str, read: Callable[[], None]) -> None:
        """Calls `read` when it is the connection's turn. `read` does nothing if the connection has ended."""
        self._waiting.add(tenant, read)

    def _turn(self) -> None:
        """A new turn of the loop."""
        self._begun = 0
        self._turning = False
