"""State that all connections of one server share: their limits, the Date header, and which ones are open."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from gateway.fairness.paced_calls import PacedCalls
from gateway.http.idle import Idle, ServedConnection
from gateway.http.known_heads import KnownHeads
from gateway.http.starts import RequestStarts
from gateway.http.tcp import TcpOptions

DISCARDED_A_SECOND: Final = 64 << 20
"""Bytes. A block of 256 KiB costs about 0.2 ms to read, so discarding takes 5 % of the time."""

EXPIRY_SLICE_S: Final = 0.0005
"""The time in each turn of the loop for connections whose time is over. Their end takes as much in the next turn."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits for one client. Sizes in bytes, times in seconds."""

    header_bytes: int
    header_timeout_s: float
    body_timeout_s: float
    keep_alive_s: float
    connections: int
    tcp: TcpOptions


class ServerState:
    """The shared state of one server's connections.

    idle: connections without a request. starts: when each reads its next one. expiries: of the connections' deadlines.
    known_heads: of their requests.
    date_line: the Date header of every answer. kept_lines: the headers of an answer that is not its connection's last;
    they announce how long the connection may be idle. draining: every answer is its connection's last. connections,
    tasks: the open connections, and the requests in progress.
    """

    def __init__(self, idle: Idle, starts: RequestStarts, limits: Limits) -> None:
        self.idle = idle
        self.starts = starts
        self.known_heads = KnownHeads()
        self.expiries = PacedCalls(slice_s=EXPIRY_SLICE_S)
        self.limits = limits
        self.date_line = b""
        self.kept_lines = b"connection: keep-alive\r\nkeep-alive: timeout=%d\r\n" % limits.keep_alive_s
        self.draining = False
        self.connections: set[ServedConnection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self._changed: asyncio.Event | None = None  # set with the next change, if someone waits for it
        self._discarding_until_s = 0.0

    def discard(self, count: int, now_s: float) -> float:
        """A connection discards `count` bytes. Returns how many seconds it waits before it reads more.

        All connections together discard at most DISCARDED_A_SECOND: refused uploads take no time from served requests.
        """
        self._discarding_until_s = max(self._discarding_until_s, now_s) + count / DISCARDED_A_SECOND
        return self._discarding_until_s - now_s

    def one_answered(self) -> None:
        """A response is complete."""
        if self._changed is not None:
            self._report_change()

    def one_closed(self, connection: ServedConnection) -> None:
        """A connection is lost."""
        self.connections.discard(connection)
        self.idle.remove(connection)
        if self._changed is not None:
            self._report_change()

    def _report_change(self) -> None:
        assert self._changed is not None
        self._changed.set()
        self._changed = None

    async def change(self) -> None:
        """Returns after the next response or closed connection."""
        if self._changed is None:
            self._changed = asyncio.Event()
        await self._changed.wait()

    async def all_closed(self) -> None:
        """Returns when no connection is left."""
        while self.connections:
            await self.change()
