"""What requests in progress use of the resources that all of them share: connections and memory.

1. A tenant's request holds one connection from its admission to its end.
2. The bytes of a body, by its Content-Length, are counted before they are read, and until the request ends. So are the
   bytes of a large head, and those of a large answer, which ends when the client has read it.
3. What exceeds the tenant's share is refused before any part of the request takes effect.
"""

from __future__ import annotations

from gateway.api.access.gate import Gate
from gateway.common.counted import counted
from gateway.common.shares import Shares
from gateway.errors import TooManyBytes, TooManyConnections
from gateway.fairness.turns import Turns

SMALL_BYTES = 8192
"""Smaller heads and answers are not counted. A connection may buffer this much of an answer that is not read."""


class Budget:
    """What the requests of one worker hold. bytes, connections: the limits, and what each tenant holds."""

    def __init__(self, buffers: Shares, connections: Shares, turns: Turns | None = None) -> None:
        self.bytes = buffers
        self.connections = connections
        self.turns = turns or Turns()
        self.gate = Gate(self.turns.time)

    def admit(self, tenant: str) -> Reservation:
        """Starts a request of the tenant. Raises TooManyConnections."""
        connections = self.connections
        if not connections.try_take(tenant):
            raise TooManyConnections(
                f"the tenant has {counted(connections.of(tenant), 'request')} in progress on this worker, its share of "
                f"the limit of {counted(connections.limit, 'connection')}; try again when one of them has ended"
            )
        return Reservation(self, tenant, connections=1)


class Reservation:
    """What one request holds of a tenant's shares. `end` gives it back."""

    __slots__ = ("_budget", "_bytes", "_connections", "_tenant")

    def __init__(self, budget: Budget, tenant: str, connections: int = 0) -> None:
        self._budget = budget
        self._tenant = tenant
        self._connections = connections
        self._bytes = 0

    async def turn(self, received: int = 0) -> None:
        """Returns when the loop may continue with a large request, of which `received` bytes have just arrived."""
        turns = self._budget.turns
        if received:
            turns.time.charge_bytes(self._tenant, received)
        await turns.next(self._tenant)

    def more(self, size: int) -> None:
        """Adds `size` bytes to what the request holds. Raises TooManyBytes."""
        buffers = self._budget.bytes
        if not buffers.try_take(self._tenant, size):
            held = buffers.of(self._tenant)
            raise TooManyBytes(
                f"the tenant's requests hold {counted(held, 'byte')} on this worker; {size} more would exceed its "
                f"share of the limit of {counted(buffers.limit, 'byte')}; try again when one of them has ended"
            )
        self._bytes += size

    def less(self, size: int) -> None:
        """The request no longer holds `size` bytes."""
        self._budget.bytes.give_back(self._tenant, size)
        self._bytes -= size

    def end(self) -> None:
        """Ends the request."""
        if self._bytes:
            self._budget.bytes.give_back(self._tenant, self._bytes)
            self._bytes = 0
        if self._connections:
            self._budget.connections.give_back(self._tenant, self._connections)
            self._connections = 0
