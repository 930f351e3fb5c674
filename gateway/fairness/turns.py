"""Long work on the event loop in slices, so that nobody waits long for it. Knows nothing of what the work is.

1. Of all the long work of a process one slice runs in a turn of the loop; whatever else is ready runs between them.
2. Tenants take turns, whoever has how much to do.
3. A slice ends after SLICE_S; one step of the work is never cut, so a step must be short by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterable
from typing import Final, TypeVar

T = TypeVar("T")

LARGE_BYTES: Final = 65536
"""An item beyond this takes a good part of a slice to read and to show."""
SLICE_S: Final = 0.002
"""A request passes through about five turns of the loop, so long work adds some ten milliseconds to it."""


class Turns:
    """Who works in the next turn of the loop. Used by one event loop."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._passing = False

    async def next(self, tenant: str = "") -> None:
        """Returns when it is the tenant's turn. Cancelled: the turn is the next one's."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        if not self._passing:
            self._passing = True
            loop.call_soon(self._pass)
        await turn

    async def for_item(self, data: bytes, tenant: str) -> None:
        """Returns when an item may be read: at once where it is small, else when it is the tenant's turn."""
        if len(data) > LARGE_BYTES:
            await self.next(tenant)

    async def slices(self, steps: Iterable[T], tenant: str = "") -> AsyncIterator[T]:
        """Each value of `steps`, which makes it when it is asked for; other work runs whenever SLICE_S are over."""
        ends_s = time.perf_counter() + SLICE_S
        for value in steps:
            yield value
            if time.perf_counter() > ends_s:
                await self.next(tenant)
                ends_s = time.perf_counter() + SLICE_S

    async def all(self, steps: Iterable[T], tenant: str = "") -> list[T]:
        """Every value of `steps`. Raises: what `steps` raises."""
        return [value async for value in self.slices(steps, tenant)]

    def _pass(self) -> None:
        while self._waiting:
            tenant, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[tenant] = turns
            if not turn.done():
                turn.set_result(None)
                break
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._pass)
        else:
            self._passing = False
