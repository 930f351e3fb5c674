"""Frames and payloads: whole, byte by byte, cut at random, damaged; order and credit of what is sent."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.common.multiplex import messages
from gateway.common.multiplex.frames import (
    DETACHED,
    FRAME_BYTES,
    HEAD,
    LAST,
    PAYLOAD_BYTES,
    BrokenFrameError,
    Frame,
    FrameDecoder,
    FrameKind,
    frame,
)
from gateway.common.multiplex.messages import Code, Greeting, Opening
from gateway.common.multiplex.outgoing import SOME_BYTES, Outgoing
from tests.lab.examples import examples
from tests.multiplex.client import fed

MIB = 1 << 20


def decoder(largest_bytes: int = 64 * MIB, incomplete_bytes: int = 128 * MIB) -> FrameDecoder:
    return FrameDecoder(largest_bytes, incomplete_bytes)


def sent(outgoing: Outgoing) -> list[bytes]:
    """Everything that it may send now, call by call."""
    return list(iter(outgoing.take, b""))


def split(data: bytes) -> list[bytes]:
    """The frames of a stream."""
    found = []
    while data:
        size = HEAD.size + HEAD.unpack_from(data)[0]
        found.append(data[:size])
        data = data[size:]
    return found


def generous() -> Outgoing:
    made = Outgoing()
    made.allow(1 << 40, 1 << 40, 1 << 40)
    return made


def test_frames_come_whole_byte_by_byte_and_with_more_behind():
    """The same messages however the bytes are cut; the rest of the next one stays."""
    item = bytes(range(256)) * 300  # more than a frame
    out = generous()
    out.carry_item(b"q", FrameKind.PUT, 2**64 - 1, messages.pack_detached_put(b"q", 7, len(item)), item)
    stream = (
        frame(FrameKind.CONFIRM, 1, messages.pack_ids([5, 2**63]))
        + b"".join(sent(out))
        + frame(FrameKind.ITEM, 3, b"x", LAST)
    )
    expected = [
        Frame(FrameKind.CONFIRM, 0, 1, messages.pack_ids([5, 2**63])),
        Frame(FrameKind.PUT, DETACHED, 2**64 - 1, messages.pack_detached_put(b"q", 7, len(item)), item),
        Frame(FrameKind.ITEM, LAST, 3, b"x"),
    ]
    assert fed(decoder(), stream) == expected
    one_by_one = decoder()
    assert [found for byte in stream for found in fed(one_by_one, bytes((byte,)))] == expected
    partial = decoder()
    assert fed(partial, stream + frame(FrameKind.CANCEL, 9)[:-1]) == expected
    assert fed(partial, frame(FrameKind.CANCEL, 9)[-1:]) == [Frame(FrameKind.CANCEL, 0, 9, b"")]


@settings(max_examples=examples(60), deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([FrameKind.PUT, FrameKind.ITEM, FrameKind.PEEKED]),
            st.integers(0, 3 * FRAME_BYTES),
            st.booleans(),
        ),
        max_size=6,
    ),
    st.lists(st.integers(1, 2 * FRAME_BYTES), min_size=1, max_size=20),
)
def test_any_messages_arrive_however_they_are_cut(wanted, cuts):
    """Messages of one turn in order, each with its item; nothing is left.

    A stream is cut into 2,000 pieces at most: the test above has one that comes byte by byte.
    """
    out = generous()
    for number, (kind, size, same_turn) in enumerate(wanted, 1):
        item, turn = bytes((number,)) * size, 0 if same_turn else number
        if size > PAYLOAD_BYTES:
            out.carry_item(turn, kind, number, b"head", item)
        else:
            out.carry(turn, frame(kind, number, item))
    stream = b"".join(sent(out))
    assert out.waiting_bytes == 0
    found, reader, at = [], decoder(), 0
    while at < len(stream):
        size = max(cuts[at % len(cuts)], len(stream) // 2000)
        found += fed(reader, stream[at : at + size])
        at += size
    assert sorted((each.id, each.kind, len(each.item or each.payload)) for each in found) == [
        (number, kind, size) for number, (kind, size, _) in enumerate(wanted, 1)
    ]
    in_turn = [each.id for each in found if wanted[each.id - 1][2]]
    assert in_turn == sorted(in_turn)


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=10), st.integers(0, 2**32))
def test_no_bytes_break_the_decoder(pieces, size):
    """It returns frames or raises BrokenFrameError, whatever comes; so do the payloads."""
    reader = decoder(largest_bytes=100, incomplete_bytes=100)
    try:
        for piece in [HEAD.pack(size % 50, (3, 16, 17, 18, 33)[size % 5], size % 3, size), *pieces]:
            for each in fed(reader, piece):
                assert isinstance(each, Frame)
    except BrokenFrameError:
        pass
    for unpack in (
        messages.unpack_greeting,
        messages.unpack_credit,
        messages.unpack_opening,
        messages.unpack_ids,
        lambda data: messages.unpack_put(data, None),
        lambda data: messages.unpack_put(data, b"x"),
        lambda data: messages.unpack_outcome(data, 3),
    ):
        for piece in pieces:
            with contextlib.suppress(BrokenFrameError):
                unpack(piece)


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (HEAD.pack(PAYLOAD_BYTES + 1, FrameKind.PUT, 0, 1), "payload"),
        (HEAD.pack(0, 99, 0, 1), "unknown"),
        (HEAD.pack(0, FrameKind.ITEM, 4, 1), "unknown"),
        (frame(FrameKind.DATA, 1), "empty"),
        (frame(FrameKind.ITEM, 1, b"", DETACHED), "no data"),
        (frame(FrameKind.DATA, 1, b"x") + frame(FrameKind.OPEN, 1, b"", DETACHED), "no data"),
        (frame(FrameKind.DATA, 1, b"x") + frame(FrameKind.ITEM, 1, b"y"), "twice"),
        (frame(FrameKind.DATA, 1, b"x" * 101), "above 100"),
        (frame(FrameKind.DATA, 1, b"x" * 80) + frame(FrameKind.DATA, 2, b"x" * 80), "incomplete"),
    ],
)
def test_a_broken_frame_says_what_is_wrong(stream, why):
    """Sizes, kinds, flags, and items without data or with too much."""
    with pytest.raises(BrokenFrameError, match=why):
        fed(decoder(largest_bytes=100, incomplete_bytes=100), stream)


def test_one_item_may_be_larger_than_the_limit_of_incomplete_ones():
    """It could never come otherwise; the limit of one item still applies."""
    out = Outgoing()
    out.allow(1 << 40, 0, 1)
    out.carry_item(1, FrameKind.ITEM, 1, b"", b"x" * MIB)
    out.carry_item(2, FrameKind.ITEM, 2, b"", b"y" * MIB)
    found = fed(decoder(MIB, 1), b"".join(sent(out)))
    assert [(each.id, each.item) for each in found] == [(1, b"x" * MIB), (2, b"y" * MIB)]


def test_the_buffer_has_a_fixed_size_and_items_are_not_copied_twice():
    """It has room for a frame at any time, however much of one has come."""
    reader = decoder()
    stream = frame(FrameKind.ITEM, 1, b"z" * PAYLOAD_BYTES) * 5
    for start in range(0, len(stream), 1000):
        room = reader.free
        assert 1000 <= len(room) <= FRAME_BYTES
        some = stream[start : start + 1000]
        room[: len(some)] = some
        reader.received(len(some))
        while reader.next() is not None:
            pass
    assert reader._end - reader._start == 0


def test_turns_alternate_frame_by_frame_and_keep_their_order():
    """A small message behind a large one of its own turn waits; one of another turn is delayed by one frame."""
    out = generous()
    out.carry_item("large", FrameKind.ITEM, 1, b"", b"x" * MIB)
    out.carry("large", frame(FrameKind.ITEM, 2, b"behind"))
    out.carry("small", frame(FrameKind.ITEM, 3, b"other"))
    out.operate(frame(FrameKind.OPEN, 4))
    out.answer(frame(FrameKind.DONE, 5))
    frames = split(b"".join(sent(out)))
    order = [HEAD.unpack_from(each)[3] for each in frames]
    assert order[:5] == [4, 5, 1, 3, 1]
    assert order[-2:] == [1, 2]
    assert max(map(len, frames)) <= FRAME_BYTES


def test_one_call_returns_a_bounded_part():
    """So that one turn of the loop writes a bounded number of bytes."""
    out = generous()
    out.carry_item(1, FrameKind.ITEM, 1, b"", b"x" * 3 * MIB)
    parts = sent(out)
    assert max(map(len, parts)) <= SOME_BYTES + FRAME_BYTES
    assert len(parts) > 8


def test_nothing_leaves_without_credit_but_answers():
    """Items and operations each have their credit; a frame may leave while any is left."""
    out = Outgoing()
    out.carry(1, frame(FrameKind.PUT, 1, b"x" * 100))
    out.operate(frame(FrameKind.OPEN, 2))
    out.answer(frame(FrameKind.END, 3))
    assert out.take() == frame(FrameKind.END, 3)
    assert out.blocked
    assert out.take() == b""
    out.allow(0, 1)
    assert out.take() == frame(FrameKind.OPEN, 2)
    out.operate(frame(FrameKind.OPEN, 4))
    assert out.take() == b""
    out.allow(1, 0)
    assert out.take() == frame(FrameKind.PUT, 1, b"x" * 100)
    assert (out.blocked, out.waiting_bytes) == (False, HEAD.size)
    out.carry(1, frame(FrameKind.PUT, 5))
    out.allow(HEAD.size + 99, 0)
    assert out.take() == b""
    out.allow(1, 0)
    assert out.take() == frame(FrameKind.PUT, 5)


def test_payloads_are_read_as_they_were_written():
    """Each kind, with the limits of its numbers."""
    greeting = Greeting(1, 3, 2**40, 2**20, 2**41, 2**42, 2**43, 2**31)
    assert messages.unpack_greeting(greeting.pack() + b"later") == greeting
    assert messages.unpack_credit(messages.pack_credit(1, 2**63)) == (1, 2**63)
    opening = Opening(b"q+child", 2**32 - 1, 2**16 - 1, 5, 7, 2**64 - 1, "tenant")
    assert messages.unpack_opening(opening.pack()) == opening
    assert messages.unpack_opening(opening._replace(tenant="").pack()) == opening._replace(tenant="")
    ids = [1, 2**64 - 1]
    assert messages.unpack_ids(messages.pack_ids(ids)) == tuple(ids)
    entries = [(0, b""), (2**32 - 1, b"\r\n\0"), (1, b"x" * 1000)]
    payload = messages.pack_put(b"q", entries)
    assert len(payload) == messages.put_bytes(b"q", [len(data) for _, data in entries])
    assert messages.unpack_put(payload, None) == (b"q", entries)
    assert messages.unpack_put(messages.pack_detached_put(b"q", 9, 4), b"four") == (b"q", [(9, b"four")])
    assert messages.pack_outcome([Code.OK, Code.OK]) == b""
    assert messages.unpack_outcome(b"", 2) == ([Code.OK, Code.OK], "")
    failed = [Code.OK, Code.FAILED]
    assert messages.unpack_outcome(messages.pack_outcome(failed, "disk füll"), 2) == (failed, "disk füll")


@pytest.mark.parametrize(
    ("cut", "tail"), [(-4, b""), (-6, b"\xac\xac\xac\xac\xac\xac")], ids=["less than its size", "not UTF-8"]
)
def test_a_broken_tenant_breaks_the_open(cut, tail):
    payload = messages.Opening(b"", tenant="tenant").pack()
    with pytest.raises(BrokenFrameError, match="tenant"):
        messages.unpack_opening(payload[:cut] + tail)


@pytest.mark.parametrize(
    ("ours", "theirs", "common"),
    [((1, 1), (1, 1), 1), ((1, 3), (2, 5), 3), ((2, 2), (1, 1), None), ((1, 9), (4, 4), 4)],
)
def test_the_common_version_is_the_highest_of_both(ours, theirs, common):
    """None if the ranges do not meet."""
    a, b = (Greeting(lowest, highest, 0, 0, 0, 0) for lowest, highest in (ours, theirs))
    assert (a.common_version(b), b.common_version(a)) == (common, common)


def test_the_documented_kinds_and_codes_are_the_ones_of_the_code(root):
    """docs/broker.md has a row for each, with its number and name."""
    text = (root / "docs" / "broker.md").read_text()
    section = text.partition("## The multiplexed connection")[2].partition("\n## ")[0]
    rows = {(int(number), name) for number, name in re.findall(r"^\| (\d+) `([A-Z_]+)` \|", section, re.MULTILINE)}
    assert rows == {(each.value, each.name) for each in (*FrameKind, *Code)}
