"""When a request begins: if several tenants send requests, in turns, and a few in each turn of the event loop.

A connection whose request waits here is not read, and its answer is not written. A tenant that floods the gateway on a
thousand connections gets its share of the loop's time; a request of another tenant waits for a few requests of the
flood, not for all that came before it. If only one tenant sends requests, ALONE of them begin in each turn. A tenant
that pauses (gateway.fairness.loop_time) begins none.
"""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.fairness.fair_queue import FairQueue
from gateway.fairness.loop_time import LoopTime

ALONE: Final = 64
TOGETHER: Final = 2
"""Requests that begin in one turn of the loop: from one tenant, and from several. A request takes about 0.3 ms."""


class Gate:
    """Lets requests begin. Used by one event loop. time: see gateway.fairness.loop_time."""

    def __init__(self, time: LoopTime | None = None) -> None:
        self.time = time or LoopTime()
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue()
        self._begun = 0
        self._turning = False
        self._pausing: asyncio.TimerHandle | None = None

    async def enter(self, tenant: str) -> None:
        """Returns when a request of the tenant may begin. Cancelled: the request never begins."""
        turn = self.turn(tenant)
        if turn is not None:
            await turn

    def turn(self, tenant: str) -> asyncio.Future[None] | None:
        """What `enter` waits for; None if the request begins now, which costs no coroutine."""
        if not self._turning:
            self._turning = True
            loop = asyncio.get_running_loop()
            loop.call_soon(self._turn, loop)
        if self._admits(tenant) if self.time.tenanted else self._begun < ALONE:
            self._begun += 1
            return None
        begin = asyncio.get_running_loop().create_future()
        self._waiting.put(tenant, begin)
        return begin

    def _admits(self, tenant: str) -> bool:
        """Whether a request of the tenant, which has just come, may begin in this turn of the loop."""
        time = self.time
        time.asked(tenant)
        if not time.shared(tenant):
            return self._begun < ALONE
        return self._begun < TOGETHER and time.may_go_on(tenant)

    def _most(self, *tenants: str) -> int:
        return TOGETHER if any(map(self.time.shared, tenants)) else ALONE

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """A new turn of the loop."""
        if self._pausing is not None:
            self._pausing.cancel()
            self._pausing = None
        self._begun = 0
        if not self._waiting:
            self._turning = False
            return
        most = self._most(*self._waiting.tenants)
        while self._begun < most and (begin := self._waiting.next(self.time.may_go_on)) is not None:
            if not begin.done():
                begin.set_result(None)
                self._begun += 1
        self._turning = self._begun > 0
        if self._turning:
            loop.call_soon(self._turn, loop)
        elif self._waiting:
            pause_s = min(map(self.time.pause_s, self._waiting.tenants))
            self._pausing = loop.call_later(pause_s, self._turn, loop)
