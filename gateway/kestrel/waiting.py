"""The lines of all queues that somebody waits for. Owns which queue has a line; opens no connection.

Room that comes on a full server is offered to those who wait in turns, OFFERS lines every STEP_S and tenant by tenant.
Each may ask for as many items as there is room, and what comes beyond it goes back.

A line that nobody needs is kept for a moment: polls that answer at once come again, and what it knows of its servers is
of use to the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gateway.errors import BackendUnavailable
from gateway.fairness.fair_queue import FairQueue
from gateway.kestrel.counters import Counters
from gateway.kestrel.line import STEP_S, Line
from gateway.kestrel.server.server import Server
from gateway.kestrel.waiter import Waiter

KEPT_S = 0.1
OFFERS = 4


class Lines:
    """The lines of all queues that somebody waits for."""

    def __init__(self, servers: Sequence[Server], waits: int, patience_s: float, counters: Counters) -> None:
        self._servers = servers
        self._waits = waits
        self._patience_s = patience_s
        self._counters = counters
        self._lines: dict[str, Line] = {}
        self._unused: dict[Line, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._starving: FairQueue[Line] = FairQueue()
        self._unoffered = 0
        self._offer_timer: asyncio.TimerHandle | None = None
        self._over: BackendUnavailable | None = None

    def __len__(self) -> int:
        return len(self._lines) - len(self._unused)

    @property
    def waiters(self) -> int:
        """How many wait, over all queues."""
        return sum(len(line) for line in self._lines.values())

    @property
    def standing(self) -> int:
        """How many gets are on servers, over all queues."""
        return sum(feeder.standing for line in self._lines.values() for feeder in line.feeders)

    def wait(self, key: str, timeout_s: float, tenant: str = "") -> Waiter:
        """Joins the line of `key`, a queue of `tenant`. `timeout_s` 0 asks each server once."""
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(
                key, tenant, self._servers, self._waits, self._counters, forget=self._forget, starve=self._starve
            )
            if self._over is not None:
                line.close(self._over)
        elif line in self._unused:
            del self._unused[line]
        waiter = Waiter(line, line.loop.time(), timeout_s, self._patience_s)
        line.join(waiter)
        return waiter

    def set_servers(self, servers: Sequence[Server]) -> None:
        """From now on these are asked, also for those who wait already."""
        self._servers = servers
        for line in list(self._lines.values()):
            line.set_servers(servers)
            line.tidy()

    def server_changed(self, server: Server) -> None:
        """A server stands in another way: gets are armed where they are missing now."""
        for line in list(self._lines.values()):
            line.server_changed(server)

    def room(self) -> None:
        """A server that was full is not any more: each line that waits for room is offered it once."""
        self._unoffered = len(self._starving)
        if self._offer_timer is None:
            self._offer()

    def close(self, error: BackendUnavailable) -> None:
        """Ends every wait with `error`, also those that are to come."""
        self._over = error
        for timer in (self._timer, self._offer_timer):
            if timer is not None:
                timer.cancel()
        for line in self._unused:
            del self._lines[line.key]
        self._unused.clear()
        self._starving = FairQueue()
        for line in list(self._lines.values()):
            line.close(error)

    def _starve(self, line: Line) -> None:
        self._starving.put(line.tenant, line)

    def _offer(self) -> None:
        self._offer_timer = None
        self._unoffered = min(self._unoffered, len(self._starving))
        for _ in range(min(OFFERS, self._unoffered)):
            self._unoffered -= 1
            self._starving.get().spread()  # behind the tenant's others, where it still starves
        if self._unoffered:
            self._offer_timer = asyncio.get_running_loop().call_later(STEP_S, self._offer)

    def _forget(self, line: Line) -> None:
        """Nobody needs the line."""
        if self._over is not None:
            self._lines.pop(line.key, None)
        elif line not in self._unused:
            self._unused[line] = line.loop.time()
            if self._timer is None:
                self._timer = line.loop.call_later(KEPT_S, self._sweep, line.loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for line, since in list(self._unused.items()):
            if now - since < KEPT_S:
                self._timer = loop.call_later(KEPT_S, self._sweep, loop)
                break
            del self._unused[line], self._lines[line.key]
            self._starving.remove(line.tenant, line)
