"""When a request begins: if several tenants send requests, in turns, and a few in each turn of the event loop.

A connection whose request waits here is not read, and its answer is not written. A tenant that floods the gateway on a
thousand connections gets its share of the loop's time; a request of another tenant waits for a few requests of the
flood, not for all that came before it. If only one tenant sends requests, nothing waits.
"""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.fairness.fair_queue import FairQueue

ALONE: Final = 64
TOGETHER: Final = 2
"""Requests that begin in one turn of the loop: from one tenant, and from several. A request takes about 0.3 ms."""
LATELY_S: Final = 1.0


class Gate:
    """Lets requests begin. Used by one event loop."""

    def __init__(self) -> None:
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue()
        self._begun = 0
        self._turning = False
        self._last = ""
        self._together_until_s = 0.0

    async def enter(self, tenant: str) -> None:
        """Returns when a request of the tenant may begin. Cancelled: the request never begins."""
        loop = asyncio.get_running_loop()
        if tenant != self._last:
            self._last = tenant
            self._together_until_s = loop.time() + LATELY_S
        if not self._turning:
            self._turning = True
            loop.call_soon(self._turn, loop)
        if not self._waiting and self._begun < self._most(loop):
            self._begun += 1
            return
        begin = loop.create_future()
        self._waiting.put(tenant, begin)
        await begin

    def _most(self, loop: asyncio.AbstractEventLoop) -> int:
        return TOGETHER if loop.time() < self._together_until_s else ALONE

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """A new turn of the loop."""
        self._begun = 0
        most = self._most(loop)
        while self._waiting and self._begun < most:
            begin = self._waiting.get()
            if not begin.done():
                begin.set_result(None)
                self._begun += 1
        self._turning = self._begun > 0
        if self._turning:
            loop.call_soon(self._turn, loop)
