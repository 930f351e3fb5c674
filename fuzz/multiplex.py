"""The multiplexed connection's frames: the same messages however the bytes are cut, never more memory than it says."""

from __future__ import annotations

import contextlib

from gateway.common.multiplex import messages
from gateway.common.multiplex.frames import DETACHED, BrokenFrameError, Frame, FrameDecoder, FrameKind, frame

MAX_ITEM = 256
INCOMPLETE = 300
SEEDS = [
    b"\x05"
    + frame(FrameKind.GREETING, 0, messages.Greeting(1, 1, 2, 3, 4, 5).pack())
    + frame(FrameKind.CONFIRM, 1, b"12345678"),
    b"\x01" + frame(FrameKind.PUT, 1, messages.pack_put(b"q", [(0, b"one"), (7, b"")])),
    b"\x03"
    + frame(FrameKind.DATA, 1, b"abc")
    + frame(FrameKind.PUT, 1, messages.pack_detached_put(b"q", 0, 3), DETACHED),
    b"\x09"
    + frame(FrameKind.OPEN, 2, messages.Opening(b"q", 10, after=1).pack())
    + frame(FrameKind.CREDIT, 0, b"x" * 16),
    b"\x02" + frame(FrameKind.DATA, 1, b"a" * 200) + frame(FrameKind.DATA, 2, b"a" * 200),
]


def one(data: bytes) -> None:
    """The first byte says how the rest is cut."""
    size, stream = (data[0] + 1, data[1:]) if data else (1, b"")
    whole = _frames([stream])
    cut = _frames([stream[start : start + size] for start in range(0, len(stream), size)])
    assert whole == cut, (whole, cut)
    for each in whole:
        if each is not None:
            with contextlib.suppress(BrokenFrameError):
                _read(each)


def _frames(pieces: list[bytes]) -> list[Frame | None]:
    """The messages; a last None if the bytes are broken."""
    decoder = FrameDecoder(MAX_ITEM, INCOMPLETE)
    found: list[Frame | None] = []
    try:
        for piece in pieces:
            decoder.received(_write(decoder, piece))
            while (each := decoder.next()) is not None:
                found.append(each)
                assert each.item is None or len(each.item) <= MAX_ITEM
    except BrokenFrameError:
        found.append(None)
    return found


def _write(decoder: FrameDecoder, piece: bytes) -> int:
    room = decoder.free
    assert len(room) >= len(piece)
    room[: len(piece)] = piece
    return len(piece)


def _read(each: Frame) -> None:
    match each.kind:
        case FrameKind.GREETING:
            packed = messages.unpack_greeting(each.payload).pack()
            assert packed == each.payload[: len(packed)]
        case FrameKind.CREDIT:
            messages.unpack_credit(each.payload)
        case FrameKind.OPEN:
            assert messages.unpack_opening(each.payload).pack() == each.payload
        case FrameKind.PUT:
            key, entries = messages.unpack_put(each.payload, each.item)
            assert each.item is not None or messages.pack_put(key, entries) == each.payload
        case FrameKind.CONFIRM | FrameKind.ABORT:
            assert messages.pack_ids(messages.unpack_ids(each.payload)) == each.payload
        case FrameKind.DONE | FrameKind.END:
            messages.unpack_outcome(each.payload, 1)
