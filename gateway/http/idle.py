"""Connections without a request in progress, and the bytes they have sent: which one is closed if room is needed.

1. At the limit of connections, the one that has been idle longest is closed for a new one. A connection with a request
   in progress is never closed for another one.
2. Bytes that arrive before their request is known count as memory of requests, for no tenant. At the limit of memory,
   the connection whose head began first is refused.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from gateway.common.shares import Shares
from gateway.errors import GatewayError, TooManyBytes

NOBODY = ""


class ServedConnection(Protocol):
    """A client's connection, as the shared state sees it."""

    transport: asyncio.Transport

    def refuse(self, error: GatewayError) -> None:
        """Answers with the error and closes."""

    def shutdown(self) -> None:
        """Closes after the response in progress, if there is one."""


class Idle:
    """The idle connections of one server, oldest first. buffers: memory of requests."""

    def __init__(self, buffers: Shares) -> None:
        self._buffers = buffers
        self._connections: dict[ServedConnection, None] = {}
        self._heads: dict[ServedConnection, None] = {}

    def add(self, connection: ServedConnection) -> None:
        """The connection has no request in progress."""
        self._connections[connection] = None

    def remove(self, connection: ServedConnection) -> None:
        """The connection has a request in progress, or is closed."""
        self._connections.pop(connection, None)

    def close_oldest(self) -> bool:
        """Closes the oldest idle connection. Returns whether there was one."""
        oldest = next(iter(self._connections), None)
        if oldest is None:
            return False
        self.remove(oldest)
        oldest.transport.abort()
        return True

    def hold(self, connection: ServedConnection, change: int, *, head: bool) -> bool:
        """Changes the number of held bytes of unknown requests by `change`. Returns whether there is room for them.

        head: the bytes belong to a head. Others may be refused to make room (rule 2).
        """
        if change > 0:
            self._buffers.take(NOBODY, change)
        elif change:
            self._buffers.give_back(NOBODY, -change)
        if head:
            self._heads[connection] = None
        else:
            self._heads.pop(connection, None)
        while self._buffers.room(NOBODY) < 0 and self._heads:
            oldest = next(iter(self._heads))
            del self._heads[oldest]
            oldest.refuse(TooManyBytes("this worker holds too many incomplete request heads; send the request again"))
        return self._buffers.room(NOBODY) >= 0
