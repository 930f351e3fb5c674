"""Frames: bytes to frames and back. No I/O.

A frame has at most FRAME_BYTES, so that frames of one item never delay those of another for long. An item that does not
fit into the frame of its message comes before it, in DATA frames with the same id; frames of different ids interleave.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from io import BytesIO
from typing import Final, NamedTuple

from gateway.common.counted import counted

HEAD: Final = struct.Struct(">HBBQ")
"""Size of the payload, kind, flags, id."""
FRAME_BYTES: Final = 1 << 16
PAYLOAD_BYTES: Final = FRAME_BYTES - HEAD.size
LAST: Final = 1
"""Flag of ITEM: its open is over."""
DETACHED: Final = 2
"""Flag of PUT, ITEM and PEEKED: the item came before, in DATA frames."""
_FLAGS: Final = LAST | DETACHED
_BUFFER_BYTES: Final = 2 * FRAME_BYTES


class FrameKind(IntEnum):
    """The kinds of frames. The first three go in both directions, those up to CHECK to the broker."""

    GREETING = 1
    CREDIT = 2
    DATA = 3
    PUT = 16
    OPEN = 17
    CANCEL = 18
    CONFIRM = 19
    ABORT = 20
    PEEK = 21
    CREATE = 22
    CHECK = 23
    DONE = 32
    ITEM = 33
    END = 34
    PEEKED = 35
    TAKEN_BACK = 36


_KINDS: Final = frozenset(map(int, FrameKind))
CARRIERS: Final = frozenset(map(int, (FrameKind.PUT, FrameKind.ITEM, FrameKind.PEEKED)))
"""The kinds of messages with items."""
_DATA: Final = int(FrameKind.DATA)
HEAD_BYTES: Final = HEAD.size


class Frame(NamedTuple):
    """One message. `item`: the item that came in DATA frames; None if the payload has everything."""

    kind: int
    flags: int
    id: int
    payload: bytes
    item: bytes | None = None


class BrokenFrameError(Exception):
    """The peer broke the protocol: the connection cannot be used any more. The message says how."""


def frame(kind: FrameKind, id_: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """The bytes of a frame. `payload`: at most PAYLOAD_BYTES."""
    return HEAD.pack(len(payload), kind, flags, id_) + payload


class FrameDecoder:
    """Makes frames of what a connection receives. Its one buffer has a fixed size, whatever arrives.

    largest_bytes: of one item. incomplete_bytes: of all items whose message has not come, if there is more than one.
    consumed: the bytes of DATA frames, until its owner sets it back.
    """

    __slots__ = ("_end", "_incomplete", "_incomplete_bytes", "_items", "_largest", "_start", "_view", "consumed")

    def __init__(self, largest_bytes: int, incomplete_bytes: int) -> None:
        self._largest = largest_bytes
        self._incomplete_bytes = incomplete_bytes
        self._view = memoryview(bytearray(_BUFFER_BYTES))
        self._start = self._end = 0
        self._items: dict[int, BytesIO] = {}
        self._incomplete = 0
        self.consumed = 0

    def __repr__(self) -> str:
        return f"<FrameDecoder {self._end - self._start} bytes, {len(self._items)} items>"

    @property
    def free(self) -> memoryview:
        """Where to write what is received; at least 1 byte, at most FRAME_BYTES. `next` has returned None before."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end + FRAME_BYTES > _BUFFER_BYTES:
            left = self._end - self._start
            self._view[:left] = self._view[self._start : self._end]
            self._start, self._end = 0, left
        return self._view[self._end : self._end + FRAME_BYTES]

    def received(self, count: int) -> None:
        """`count` bytes were written to `free`."""
        self._end += count

    def next(self) -> Frame | None:
        """The next message, or None until more is received. Raises BrokenFrameError."""
        view = self._view
        while True:
            start = self._start
            at = start + HEAD_BYTES
            if self._end < at:
                return None
            size, kind, flags, id_ = HEAD.unpack_from(view, start)
            if size > PAYLOAD_BYTES:
                raise BrokenFrameError(f"a payload of {counted(size, 'byte')} is above {PAYLOAD_BYTES}")
            if kind not in _KINDS or flags & ~_FLAGS:
                raise BrokenFrameError(f"kind {kind} with flags {flags} is unknown")
            stop = at + size
            if stop > self._end:
                return None
            self._start = stop
            if kind == _DATA:
                self._add(id_, view[at:stop])
                continue
            payload = view[at:stop].tobytes()
            if not flags & DETACHED and id_ not in self._items:
                return Frame(kind, flags, id_, payload)
            return Frame(kind, flags, id_, payload, self._finish(kind, flags, id_))

    def _add(self, id_: int, piece: memoryview) -> None:
        item = self._items.get(id_)
        if item is None:
            item = self._items[id_] = BytesIO()
        if not piece:
            raise BrokenFrameError("a DATA frame is empty")
        item.write(piece)
        self.consumed += HEAD.size + len(piece)
        self._incomplete += len(piece)
        if item.tell() > self._largest:
            raise BrokenFrameError(f"an item is above {counted(self._largest, 'byte')}")
        if self._incomplete > self._incomplete_bytes and len(self._items) > 1:
            raise BrokenFrameError(
                f"{counted(len(self._items), 'incomplete item has', 'incomplete items have')} more than "
                f"{counted(self._incomplete_bytes, 'byte')}"
            )

    def _finish(self, kind: int, flags: int, id_: int) -> bytes | None:
        """The item of a message that says that it has one. Other messages of that id may come in between."""
        if not flags & DETACHED:
            if kind in CARRIERS:
                raise BrokenFrameError("the data of an item came twice")
            return None
        item = self._items.pop(id_, None)
        if item is None or kind not in CARRIERS:
            raise BrokenFrameError("an item has no data")
        data = item.getvalue()  # without a copy: io.BytesIO gives away its buffer
        self._incomplete -= len(data)
        return data
