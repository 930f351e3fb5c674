"""The codec: whole, byte by byte, with trailing bytes, and cut anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.broker.memcache.codec import (
    MALFORMED,
    MAX_LINE_BYTES,
    MISSING_ARGUMENT,
    Command,
    ConfirmCommand,
    Decoder,
    DumpStatsCommand,
    GetCommand,
    MonitorCommand,
    PlainCommand,
    PutCommand,
    QueueCommand,
    Refused,
    StatusCommand,
    TooLarge,
    value,
)

CASES: list[tuple[bytes, Command]] = [
    (b"set q 0 0 5\r\nhello\r\n", PutCommand(b"q", 0, b"hello")),
    (b"SET q 42 -1 0\r\n\r\n", PutCommand(b"q", -1, b"")),
    (
        b"set q 0 1795418892 10 noreply\r\na\r\nEND\r\n\x00\xff\r\n",
        PutCommand(b"q", 1795418892, b"a\r\nEND\r\n\x00\xff", noreply=True),
    ),
    (b"get q\r\n", GetCommand(b"q")),
    (b"get q\n", GetCommand(b"q")),
    (b"gets q zz\r\n", GetCommand(b"q")),
    (b"get q/open/t=10 \r\n", GetCommand(b"q", 10, open=True)),
    (b"get q/t=0/close/open\r\n", GetCommand(b"q", 0, open=True, close=True)),
    (b"get q/t=-5\r\n", GetCommand(b"q", -5)),
    (b"get k//peek\r\n", GetCommand(b"k", peek=True)),
    (b"get k/OPEN/t\r\n", GetCommand(b"k")),
    (b"get \xc3\xa9/abort\r\n", GetCommand("é".encode(), abort=True)),
    (b"monitor q 1\r\n", MonitorCommand(b"q", 1, None)),
    (b"monitor q 1 5\r\n", MonitorCommand(b"q", 1, 5)),
    (b"confirm q 2\r\n", ConfirmCommand(b"q", 2)),
    (b"FLUSH q\r\n", QueueCommand(b"flush", b"q")),
    (b"delete q \r\n", QueueCommand(b"delete", b"q")),
    (b"flush_expired q\r\n", QueueCommand(b"flush_expired", b"q")),
    (b"DUMP_STATS a b\r\n", DumpStatsCommand((b"a", b"b"))),
    (b"dump_stats\r\n", DumpStatsCommand(())),
    (b"status\r\n", StatusCommand(None)),
    (b"status ReadOnly\r\n", StatusCommand(b"readonly")),
    (b"STATS\n", PlainCommand(b"stats")),
    (b"stats foo\r\n", PlainCommand(b"stats")),
    (b"quit\r\n", PlainCommand(b"quit")),
    (b"set big 0 0 100001\r\n" + b"x" * 100001 + b"\r\n", TooLarge(b"big")),
    (b"get\r\n", MISSING_ARGUMENT),
    (b"get /\r\n", MISSING_ARGUMENT),
    (b"confirm q\r\n", MISSING_ARGUMENT),
    (b"set x a 0 1\r\nz\r\n", MISSING_ARGUMENT),
]
BAD: list[bytes] = [
    b"\r\n", b" \r\n", b"foo\r\n", b"get  q\r\n", b"get /open\r\n", b"get k/peek/open\r\n", b"get k/t=\r\n",
    b"get k/t=abc\r\n", b"get k/t=1_0\r\n",
    b"get k/t=99999999999\r\n", b"set\r\n", b"set x 0 0\r\n", b"set x 0 0 abc\r\n",
    b"set x 0 0 -1\r\n", b"set x 0 0 2147483648\r\n", b"set x 0 b 1\r\nz\r\n", b"set x 0 0 3\r\nabcdef\r\n",
    b"set x 0 0 3\r\nabc\n\n", b"monitor q\r\n", b"monitor q x\r\n", b"confirm q x\r\n", b"x" * (MAX_LINE_BYTES + 2),
]  # fmt: skip


def decode(*pieces: bytes) -> list[Command]:
    decoder = Decoder(100_000)
    found = []
    for piece in pieces:
        decoder.feed(piece)
        while (command := decoder.next()) is not None:
            found.append(command)
    return found


@pytest.mark.parametrize(("data", "command"), CASES)
def test_a_command_is_the_same_however_it_arrives(data: bytes, command: Command) -> None:
    """A command is the same whole, byte by byte, and with bytes of the next behind it."""
    assert decode(data) == [command]
    assert decode(*(data[i : i + 1] for i in range(min(len(data), 200))), data[200:]) == [command]
    assert decode(data + b"get q") == [command]
    assert decode(data + b"version\r\n") == [command, PlainCommand(b"version")]


@pytest.mark.parametrize("data", BAD)
def test_what_cannot_be_read_ends_the_connection(data: bytes) -> None:
    """What cannot be read ends the connection: nothing behind it is run."""
    (found,) = decode(data + b"version\r\n")
    assert isinstance(found, Refused)
    assert found.close
    assert found.answer.startswith(b"CLIENT_ERROR")
    assert found.answer.endswith(b"\r\n")
    (again,) = decode(*(data[i : i + 1] for i in range(min(len(data), 200))), data[200:], b"version\r\n")
    assert again == found


def test_a_refusal_has_no_text_where_kestrel_has_none() -> None:
    """Where Kestrel says CLIENT_ERROR and no more, so do we."""
    assert decode(b"bogus\r\n") == [MALFORMED]
    assert MALFORMED.answer == b"CLIENT_ERROR\r\n"


@given(st.data())
def test_a_stream_may_be_cut_anywhere(data: st.DataObject) -> None:
    """However a stream of commands is cut, the commands are the same."""
    cases = data.draw(st.lists(st.sampled_from(CASES[:25]), max_size=12))
    stream = b"".join(case[0] for case in cases)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert decode(*pieces) == [case[1] for case in cases]


@given(st.binary(max_size=300))
def test_no_bytes_raise(data: bytes) -> None:
    """No bytes raise, and no more is kept than was fed."""
    decoder = Decoder(100_000)
    decoder.feed(data)
    while (command := decoder.next()) is not None:
        if isinstance(command, Refused) and command.close:
            break
    assert 0 <= decoder.buffered <= len(data)


@given(st.binary(max_size=300))
def test_any_bytes_can_be_an_item(data: bytes) -> None:
    """Any bytes can be an item, and are sent back as they are."""
    assert decode(b"set k 0 0 %d\r\n%b\r\n" % (len(data), data)) == [PutCommand(b"k", 0, data)]
    assert value(b"k", data) == b"VALUE k 0 %d\r\n%b\r\nEND\r\n" % (len(data), data)


def test_large_item_keeps_no_copy_of_what_was_skipped() -> None:
    """An item over the limit is thrown away while it arrives."""
    decoder = Decoder(1000)
    decoder.feed(b"set big 0 0 1000000\r\n")
    assert decoder.next() == TooLarge(b"big")
    for _ in range(10):
        decoder.feed(b"x" * 100_000)
        assert decoder.next() is None
        assert decoder.buffered == 0
    decoder.feed(b"\r\nversion\r\n")
    assert decoder.next() == PlainCommand(b"version")
