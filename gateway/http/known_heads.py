"""Heads that were read a short while ago, by their bytes: clients send the same few heads again and again.

A head with the same bytes has the same meaning, whoever sends it, so it is not parsed a second time. Used for heads
that arrive whole and are short, and whose body has a Content-Length or is empty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.http.request_parser import RequestHead

LONGEST: Final = 2048
"""Bytes of a head that is kept."""
MOST: Final = 256
"""Heads that are kept. Then all are forgotten: heads of acks, which never repeat, cannot push others out one by one."""


class KnownHeads:
    """The heads of one server's connections. Each has the length of the body that follows it, in bytes."""

    __slots__ = ("_heads", "find")

    def __init__(self) -> None:
        self._heads: dict[bytes, tuple[RequestHead, int]] = {}
        self.find = self._heads.get

    def add(self, data: bytes, head: RequestHead, body_length: int) -> None:
        """Keeps the head that has these bytes, if it is short."""
        if len(data) <= LONGEST:
            if len(self._heads) >= MOST:
                self._heads.clear()
            self._heads[data] = (head, body_length)
