"""How much of clients' unfinished business is kept in memory: half-sent items and answers that are not read.

Each alone may be as large as the largest item, so all together have a limit. Beyond it the client that has made no
progress for longest is dropped, until the rest fits: a client that stalls loses its place to those that go on.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

SMALL_BYTES = 4096
"""What a connection may keep uncounted; the limit on connections bounds the sum."""


class BufferOwner(Protocol):
    """A connection that keeps bytes for its client."""

    def drop(self) -> None:
        """Ends the connection at once; what it kept is free."""


class BufferLimit:
    """Counts what the owners hold, against `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.dropped = 0
        self._kept: OrderedDict[BufferOwner, int] = OrderedDict()  # who made progress last is the last

    def __repr__(self) -> str:
        return f"<BufferLimit {self.used_bytes} of {self.limit_bytes} bytes, {len(self._kept)} owners>"

    def progress(self, owner: BufferOwner, size: int) -> None:
        """`owner` holds `size` bytes now, and its client has sent or read something. May drop others, or itself."""
        self.used_bytes += size - self._kept.pop(owner, 0)
        if size:
            self._kept[owner] = size
        while self.used_bytes > self.limit_bytes and self._kept:
            stalled, freed = self._kept.popitem(last=False)
            self.used_bytes -= freed
            self.dropped += 1
            stalled.drop()
