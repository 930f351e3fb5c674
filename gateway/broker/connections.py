"""The connections of clients, of whatever protocol: how many there may be, and which one is closed at the limit."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Protocol

from gateway.broker.client_log import ClientLog
from gateway.broker.counters import BrokerCounters


class BrokerConnection(Protocol):
    """One client's connection."""

    @property
    def is_local(self) -> bool:
        """Whether it is a Unix socket: the gateway, or a client of this user. It is not limited."""

    @property
    def peer(self) -> str:
        """The client's address, for the log."""

    def refuse(self, why: str) -> None:
        """Gives the reason and closes."""

    def disconnect(self) -> None:
        """Closes."""

    def check(self, quiet_since_s: float | None) -> None:
        """Closes if the client is gone, or was idle since that time."""

    def stop(self) -> None:
        """Closes after the answers that wait for a commit."""


class Connections:
    """All open connections. limit: of TCP connections; set it before the first one."""

    def __init__(self, counters: BrokerCounters, client_log: ClientLog) -> None:
        self.limit = 0
        self._counters = counters
        self._client_log = client_log
        self._open: set[BrokerConnection] = set()
        self._silent: OrderedDict[BrokerConnection, None] = OrderedDict()  # TCP, without a command; oldest first
        self._remote = 0  # TCP connections
        self._all_closed = asyncio.Event()
        self._all_closed.set()

    def __len__(self) -> int:
        return len(self._open)

    def opened(self, connection: BrokerConnection) -> None:
        """Counts a new connection. Above the limit the oldest silent one is closed; otherwise the new one is
        refused."""
        self._counters.curr_connections += 1
        self._counters.total_connections += 1
        self._open.add(connection)
        self._all_closed.clear()
        if connection.is_local:
            return
        self._remote += 1
        self._silent[connection] = None
        if self._remote > self.limit:
            oldest = next(iter(self._silent))
            if oldest is connection:
                self._client_log.connection_limit(f"{connection.peer} is refused", self.limit)
                connection.refuse("too many connections")
            else:
                del self._silent[oldest]
                self._client_log.connection_limit(
                    f"{oldest.peer}, which has sent no command yet, is disconnected", self.limit
                )
                oldest.disconnect()

    def first_command(self, connection: BrokerConnection) -> None:
        """Its first command was complete."""
        self._silent.pop(connection, None)

    def lost(self, connection: BrokerConnection) -> None:
        """It is over."""
        self._counters.curr_connections -= 1
        self._open.discard(connection)
        self._silent.pop(connection, None)
        self._remote -= not connection.is_local
        if not self._open:
            self._all_closed.set()

    def check(self, quiet_since_s: float | None) -> None:
        """Closes those whose client is gone, or was idle since that time."""
        for connection in list(self._open):
            connection.check(quiet_since_s)

    def stop(self) -> None:
        """Closes all after the answers that wait for a commit."""
        for connection in list(self._open):
            connection.stop()

    async def all_closed(self) -> None:
        """Returns when none is open."""
        await self._all_closed.wait()
