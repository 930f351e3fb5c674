"""Bytes that a connection has received and not parsed yet, and how many it may hold and discard."""

from __future__ import annotations

from typing import Final

from gateway.http.idle import Idle, ServedConnection

HELD_BYTES: Final = 65536  # held behind a pending response
DISCARD_BYTES: Final = 4 << 20  # discarded behind a request that waits for long


class ReadBuffer:
    """Holds what comes behind a pending response, or the rest of a body in many small chunks.

    Bytes of requests whose tenant is not known yet count as memory (Idle, rule 2); `counted` is how many.
    """

    __slots__ = ("_connection", "_discarded", "_idle", "counted", "data")

    def __init__(self, connection: ServedConnection, idle: Idle) -> None:
        self._connection = connection
        self._idle = idle
        self._discarded = 0
        self.data = bytearray()
        self.counted = 0

    @property
    def is_full(self) -> bool:
        """Whether more is held than a connection may hold."""
        return len(self.data) > HELD_BYTES

    def hold(self, data: bytes) -> bool:
        """Holds bytes of the next requests. Returns whether there is room for more."""
        self.data += data
        return self.count(len(self.data)) and not self.is_full

    def discard(self, count: int) -> bool:
        """Counts bytes that are not held. Returns whether more may come."""
        self._discarded += count
        return self._discarded <= DISCARD_BYTES

    def take(self) -> bytes:
        """Returns all that is held, and holds it no more. Its bytes stay counted until they are parsed."""
        held, self.data = bytes(self.data), bytearray()
        return held

    def clear(self) -> None:
        """Drops all that is held."""
        self.data.clear()
        self.count(0)

    def close(self) -> None:
        """The connection has ended. Nothing may be held or counted after this."""
        self.clear()
        del self._connection  # it refers back to this buffer

    def count(self, count: int, *, head: bool = False) -> bool:
        """Now `count` bytes belong to requests of unknown tenants. Returns whether there is memory for them.

        head: they are an incomplete head.
        """
        if count == self.counted == 0:
            return True
        change, self.counted = count - self.counted, count
        return self._idle.hold(self._connection, change, head=head)
