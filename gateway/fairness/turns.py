"""Long work on the event loop, cut into slices so that other work does not wait long. Knows no kind of work.

1. The first slice of a piece of work runs at once. Of all further slices, one turn of the loop runs at most one; other
   work runs between them.
2. Tenants take turns, however much work each of them has. A tenant that pauses (gateway.fairness.loop_time) is skipped.
3. A slice ends after SLICE_S. A single step is never cut, so each step must be short.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import Final, TypeVar

from gateway.fairness.fair_queue import FairQueue
from gateway.fairness.loop_time import LoopTime

T = TypeVar("T")

SLICE_BYTES: Final = 65536
"""A larger item takes a good part of a slice to read and to show."""
SLICE_S: Final = 0.001
"""A request takes about five turns of the loop, so long work adds about five milliseconds to it."""


class Turns:
    """Decides which work runs in the next turn of the loop. Used by one event loop. loop_time: may be None."""

    def __init__(self, loop_time: LoopTime | None = None) -> None:
        self.time = loop_time or LoopTime()
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue()
        self._passing = False
        self._pausing: asyncio.TimerHandle | None = None

    async def next(self, tenant: str = "") -> None:
        """Returns when it is the tenant's turn. Cancelled: the turn passes to the next one."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.put(tenant, turn)
        if not self._passing:
            self._passing = True
            loop.call_soon(self._pass, loop)
        await turn

    async def for_item(self, data: bytes, tenant: str) -> None:
        """Returns when an item may be read: at once if it is small, otherwise when it is the tenant's turn."""
        if len(data) > SLICE_BYTES:
            self.time.charge_bytes(tenant, len(data))
            await self.next(tenant)

    async def slices(self, steps: Iterable[T], tenant: str = "") -> AsyncIterator[T]:
        """Yields each value of the lazy `steps`; other work runs each time SLICE_S has passed."""
        ends_s = time.perf_counter() + SLICE_S
        for value in steps:
            yield value
            if time.perf_counter() > ends_s:
                await self.next(tenant)
                ends_s = time.perf_counter() + SLICE_S

    async def all(self, steps: Iterable[T], tenant: str = "") -> list[T]:
        """Every value of `steps`. Raises what `steps` raises."""
        return [value async for value in self.slices(steps, tenant)]

    def _pass(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._pausing is not None:
            self._pausing.cancel()
            self._pausing = None
        given = False
        while not given and (turn := self._waiting.next(self.time.may_go_on)) is not None:
            if given := not turn.done():
                turn.set_result(None)
        self._passing = given
        if given:
            loop.call_soon(self._pass, loop)
        elif self._waiting:
            pause_s = min(map(self.time.pause_s, self._waiting.tenants))
            self._pausing = loop.call_later(pause_s, self._pass, loop)
