"""Connections on which no request is under way, and what they have sent so far: who is closed where room is needed.

1. At the limit of connections, the one that has been idle longest is closed for a new one. A connection whose request
   is under way is never closed for another one.
2. What comes before its request is known counts with the memory of requests, for no tenant. Where that is too much, the
   connection whose head began first is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.errors import TooManyBytes
from gateway.fairness.shares import Shares

if TYPE_CHECKING:
    from gateway.http.connection import GatewayProtocol

NOBODY = ""


class Idle:
    """The idle connections of one server, oldest first. buffers: what requests hold. closed: how many, by rule 1."""

    def __init__(self, buffers: Shares) -> None:
        self._buffers = buffers
        self._connections: dict[GatewayProtocol, None] = {}
        self._heads: dict[GatewayProtocol, None] = {}
        self.closed = 0

    def add(self, connection: GatewayProtocol) -> None:
        """No request is under way on it from now on."""
        self._connections[connection] = None

    def remove(self, connection: GatewayProtocol) -> None:
        """A request is, or it is closed."""
        self._connections.pop(connection, None)

    def close_oldest(self) -> bool:
        """Whether there was one to close."""
        oldest = next(iter(self._connections), None)
        if oldest is None:
            return False
        self.remove(oldest)
        self.closed += 1
        oldest.transport.abort()
        return True

    def hold(self, connection: GatewayProtocol, change: int, *, head: bool) -> bool:
        """It holds so many bytes more, or less, of requests that are not known yet. Whether there is room for them.

        head: it has a part of a head. Others may be refused to make room (rule 2).
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
            oldest.refuse(TooManyBytes("the gateway holds too many incomplete request heads; send the request again"))
        return self._buffers.room(NOBODY) >= 0
