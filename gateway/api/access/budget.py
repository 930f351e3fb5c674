"""What requests under way hold of what all of them share: the loop's turns, connections, and memory.

1. A request of a tenant holds one connection, from its admission to its end.
2. A body's bytes are held before they are read, by its Content-Length, and until the request ends. So are those of a
   large answer, which ends when the client has read it, and of a large head.
3. What goes beyond the tenant's share is refused, and nothing of the request has been done.
"""

from __future__ import annotations

from gateway.api.access.gate import Gate
from gateway.errors import TooManyBytes, TooManyConnections
from gateway.fairness.shares import Shares

SMALL_BYTES = 8192
"""Heads and answers up to this are not counted. It is what a connection may hold of an answer nobody reads."""


class Budget:
    """What the requests of one worker hold. bytes, connections: with the limit, in all and for each tenant."""

    def __init__(self, buffers: Shares, connections: Shares) -> None:
        self.bytes = buffers
        self.connections = connections
        self.gate = Gate()

    def admit(self, tenant: str) -> Held:
        """A request of the tenant begins. Raises TooManyConnections."""
        connections = self.connections
        if not connections.admits(tenant):
            raise TooManyConnections(
                f"the tenant has {connections.of(tenant)} requests in progress on this worker, its share of the limit "
                f"of {connections.limit} connections"
            )
        connections.take(tenant)
        return Held(self, tenant, connections=1)


class Held:
    """What one request holds. `end` gives it back."""

    __slots__ = ("_budget", "_bytes", "_connections", "_tenant")

    def __init__(self, budget: Budget, tenant: str, connections: int = 0) -> None:
        self._budget = budget
        self._tenant = tenant
        self._connections = connections
        self._bytes = 0

    def more(self, size: int) -> None:
        """The request holds so many bytes more. Raises TooManyBytes."""
        buffers = self._budget.bytes
        if not buffers.admits(self._tenant, size):
            held = buffers.of(self._tenant)
            raise TooManyBytes(
                f"the tenant's requests hold {held} bytes on this worker; {size} more would exceed its share of "
                f"the limit of {buffers.limit} bytes"
            )
        buffers.take(self._tenant, size)
        self._bytes += size

    def end(self) -> None:
        """The request is over."""
        if self._bytes:
            self._budget.bytes.give_back(self._tenant, self._bytes)
            self._bytes = 0
        if self._connections:
            self._budget.connections.give_back(self._tenant, self._connections)
            self._connections = 0
