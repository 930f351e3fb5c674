"""The end of a page of the list of queues, as text that is opaque to callers. Pure; knows no queue.

A figure may change between two pages, so a position in the order of figures would skip some queues and repeat others.
Therefore a cursor also names the next queues, in the order of the last page; `mark` is the short form of a name.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import struct
from dataclasses import dataclass
from typing import Final

from gateway.errors import InvalidParameter

MARK_BYTES: Final = 5
"""Two of ten thousand queues share a mark in one deployment out of twenty thousand."""
MAX_AHEAD: Final = 500
"""Keeps a cursor below 3,600 characters, and the path with it below the 4 KB that every proxy accepts."""
_HEAD: Final = struct.Struct(">5sI?ddB")


@dataclass(frozen=True, slots=True)
class Cursor:
    """sort: the order to which the cursor belongs. left: how many more queues may be shown. at_s: its wall time.

    value, name: of the last queue in `ahead`, at that time. `more`: whether there are queues after those in `ahead`. A
    cursor by name holds only the name of the last queue shown.
    """

    sort: str
    left: int
    at_s: float
    value: float
    name: str
    ahead: tuple[bytes, ...]
    more: bool

    @property
    def text(self) -> str:
        """Its form in a URL."""
        name = self.name.encode()
        head = _HEAD.pack(mark(self.sort), self.left, self.more, self.at_s, self.value, len(name))
        return base64.urlsafe_b64encode(head + name + b"".join(self.ahead)).decode().rstrip("=")


def mark(name: str) -> bytes:
    """A short hash of a queue's name; the same in every process."""
    return hashlib.blake2b(name.encode(), digest_size=MARK_BYTES).digest()


def read(text: str, sort: str) -> Cursor:
    """The cursor in the text. Raises InvalidParameter if it is not a cursor, or is one of another order than `sort`."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        of, left, more, at_s, value, length = _HEAD.unpack_from(raw)
        rest = raw[_HEAD.size :]
        name, marks = rest[:length].decode(), rest[length:]
    except (ValueError, binascii.Error, struct.error) as exc:
        raise InvalidParameter("cursor: unknown cursor; start again without one") from exc
    if of != mark(sort):
        raise InvalidParameter(f"cursor: it is for another sort order than sort={sort}; start again without one")
    if len(marks) % MARK_BYTES or not (math.isfinite(at_s) and math.isfinite(value)):
        raise InvalidParameter("cursor: unknown cursor; start again without one")
    ahead = tuple(marks[begin : begin + MARK_BYTES] for begin in range(0, len(marks), MARK_BYTES))
    return Cursor(sort, left, at_s, value, name, ahead, more)
