"""Limits the memory for clients' incomplete items and unread answers.

Each may be as large as the largest item, so there is a limit for all of them. Above it clients are
disconnected, the one that has stalled longest first, until the others fit: it makes room for those that continue.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

SMALL_BYTES = 4096
"""Bytes per connection that are not counted; the limit of connections bounds their sum."""


class BufferOwner(Protocol):
    """A connection that buffers bytes for its client."""

    def drop(self) -> None:
        """Ends the connection at once; its buffers are freed."""


class BufferLimit:
    """Counts what the owners hold, against `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._kept: OrderedDict[BufferOwner, int] = OrderedDict()  # in order of their last progress

    def __repr__(self) -> str:
        return f"<BufferLimit {self.used_bytes} of {self.limit_bytes} bytes, {len(self._kept)} owners>"

    def progress(self, owner: BufferOwner, size: int) -> None:
        """`owner` now holds `size` bytes, and its client has sent or read something. May drop others, or `owner`."""
        self.used_bytes += size - self._kept.pop(owner, 0)
        if size:
            self._kept[owner] = size
        while self.used_bytes > self.limit_bytes and self._kept:
            stalled, freed = self._kept.popitem(last=False)
            self.used_bytes -= freed
            stalled.drop()
