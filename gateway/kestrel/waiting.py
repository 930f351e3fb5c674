"""The lines of all queues that somebody waits for. Owns which queue has a line; opens no connection."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.errors import BackendUnavailable
from gateway.kestrel.counters import Counters
from gateway.kestrel.line import Line
from gateway.kestrel.server import Server
from gateway.kestrel.waiter import Waiter


class Lines:
    """The lines of all queues that somebody waits for."""

    def __init__(self, servers: Sequence[Server], waits: int, patience_s: float, counters: Counters) -> None:
        self._servers = servers
        self._waits = waits
        self._patience_s = patience_s
        self._counters = counters
        self._lines: dict[str, Line] = {}
        self._over: BackendUnavailable | None = None

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def waiters(self) -> int:
        """How many wait, over all queues."""
        return sum(len(line) for line in self._lines.values())

    @property
    def standing(self) -> int:
        """How many gets are on servers, over all queues."""
        return sum(feeder.standing for line in self._lines.values() for feeder in line.feeders)

    def wait(self, key: str, timeout_s: float) -> Waiter:
        """Joins the line of `key`. `timeout_s` 0 asks each server once."""
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(key, self._servers, self._waits, self._counters, self._forget)
            if self._over is not None:
                line.close(self._over)
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

    def close(self, error: BackendUnavailable) -> None:
        """Ends every wait with `error`, also those that are to come."""
        self._over = error
        for line in list(self._lines.values()):
            line.close(error)

    def _forget(self, line: Line) -> None:
        if self._lines.get(line.key) is line:
            del self._lines[line.key]
