"""Short callbacks of which very many can be due at one instant, such as the ends of a thousand waits.

1. One turn of the event loop runs such calls for a slice of time; other work runs before the next ones.
2. Tenants take turns, however many calls each of them has. The calls of one tenant run in order.
3. A call runs in a later turn than the one in which it was added, so answers that have arrived are read before it.
4. With the accounts of the loop's time (gateway.fairness.loop_time), each call is charged to its tenant, and the calls
   of a tenant that pauses wait until it may continue. Calls for no tenant are free and never pause: nobody knows yet
   whose they are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeAlias

from gateway.fairness.fair_queue import FairQueue
from gateway.fairness.loop_time import LoopTime
from gateway.fairness.turns import SLICE_S

PacedCall: TypeAlias = Callable[[], None]


class PacedCalls:
    """Calls that wait for their turn. Used by one event loop. clock: seconds, monotonic."""

    __slots__ = ("_clock", "_loop_time", "_pausing", "_running", "_slice_s", "_waiting")

    def __init__(
        self,
        loop_time: LoopTime | None = None,
        *,
        slice_s: float = SLICE_S,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._loop_time = loop_time
        self._slice_s = slice_s
        self._clock = clock
        self._waiting: FairQueue[tuple[str, PacedCall]] = FairQueue()
        self._running = False
        self._pausing: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, tenant: str, call: PacedCall) -> None:
        """Makes the call in a later turn of the loop. A call that cannot be made any more must do nothing."""
        self._waiting.put(tenant, (tenant, call))
        self._run_soon()

    def _run_soon(self) -> None:
        if self._pausing is not None:
            self._pausing.cancel()
            self._pausing = None
        if not self._running:
            self._running = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        self._running = False
        now_s = self._clock()
        ends_s = now_s + self._slice_s
        next_call: tuple[str, PacedCall] | None = None
        try:
            while now_s <= ends_s and (next_call := self._waiting.next(self._may_go_on)) is not None:
                tenant, call = next_call
                call()
                began_s, now_s = now_s, self._clock()
                if tenant and self._loop_time is not None:
                    self._loop_time.charge(tenant, now_s - began_s)
        finally:
            if self._waiting and next_call is not None:
                self._run_soon()
            elif self._waiting and not self._running:
                assert self._loop_time is not None
                pause_s = min(map(self._loop_time.pause_s, self._waiting.tenants))
                self._pausing = asyncio.get_running_loop().call_later(pause_s, self._run_soon)

    def _may_go_on(self, tenant: str) -> bool:
        return self._loop_time is None or not tenant or self._loop_time.may_go_on(tenant)
