"""The codec: what is sent, and that only a complete, matching answer with nothing behind it is an answer."""

import pytest
from pymemcache.exceptions import (
    MemcacheClientError,
    MemcacheError,
    MemcacheIllegalInputError,
    MemcacheServerError,
    MemcacheUnexpectedCloseError,
    MemcacheUnknownCommandError,
    MemcacheUnknownError,
)

from gateway.kestrel.wire.bridge import Bridge
from gateway.kestrel.wire.codec import KestrelClient


class Tape:
    """A wire that plays an answer in pieces of the size asked for and records what was sent."""

    def __init__(self, answer: bytes, piece: int) -> None:
        self.answer, self.piece, self.sent, self.received = answer, piece, b"", 0

    def sendall(self, data):
        self.sent += data

    def recv(self, size):
        data, self.answer = self.answer[: self.piece], self.answer[self.piece :]
        self.received += len(data)
        return data


def play(answer: bytes, method, *args, piece: int = 1 << 20):
    """Runs a client's method against an answer; returns (value, bytes sent)."""
    codec, tape = KestrelClient(Bridge()), Tape(answer, piece)
    codec.sock = tape
    return method(codec, *args), tape.sent


LONG = "t" * 60 + "__" + "q" * 64 + "+" + "c" * 64

ANSWERS = [
    (b"STORED\r\n", KestrelClient.store, ("q", b"a\r\nEND\r\n", 7), b"set q 0 7 8\r\na\r\nEND\r\n\r\n", True),
    (b"STORED\r\n", KestrelClient.store, ("q", b"", 0), b"set q 0 0 0\r\n\r\n", True),
    (b"NOT_STORED\r\n", KestrelClient.store, ("q", b"x", 0), b"set q 0 0 1\r\nx\r\n", False),
    (b"END\r\n", KestrelClient.take, ("q", 0), b"get q/open\r\n", None),
    (b"VALUE q 0 3\r\nabc\r\nEND\r\n", KestrelClient.take, ("q", 100), b"get q/t=100/open\r\n", b"abc"),
    (b"VALUE q 0 0\r\n\r\nEND\r\n", KestrelClient.take, ("q", 1), b"get q/t=1/open\r\n", b""),
    (b"VALUE q 0 7\r\n\r\nEND\r\n\r\nEND\r\n", KestrelClient.take, ("q", 0), b"get q/open\r\n", b"\r\nEND\r\n"),
    (b"VALUE q 0 2\r\n\x00\xff\r\nEND\r\n", KestrelClient.peek, ("q",), b"get q/peek\r\n", b"\x00\xff"),
    (b"END\r\n", KestrelClient.confirm, ("q",), b"confirm q 1\r\n", None),
    (b"END\r\n", KestrelClient.close_read, ("q",), b"get q/close\r\n", None),
    (b"END\r\n", KestrelClient.abort, ("q",), b"get q/abort\r\n", None),
    (b"END\r\n", KestrelClient.flush, ("q",), b"flush q\r\n", None),
    (b"DELETED\r\n", KestrelClient.drop, ("q",), b"delete q\r\n", None),
    (b"END\r\n", KestrelClient.drop, ("q",), b"delete q\r\n", None),
    (b"VERSION 2.4.8\r\n", KestrelClient.ask_version, (), b"version\r\n", "2.4.8"),
    (b"ERROR\r\n", KestrelClient.refuse_confirm, (), b"confirm probe 1\r\n", None),
    (b"STAT a 1\r\nEND\r\n", KestrelClient.all_stats, (), b"stats\r\n", ["STAT a 1"]),
    (b"queue 'q' {\r\n}\r\nEND\r\n", KestrelClient.dump_stats, (), b"dump_stats\r\n", ["queue 'q' {", "}"]),
]


def failure(answer: bytes, method, *args) -> type[Exception] | None:
    """The error of a client's method for an answer; None if it returns."""
    try:
        play(answer, method, *args)
    except MemcacheError as exc:
        return type(exc)
    return None


def test_a_whole_answer_in_pieces_of_any_size():
    """The bytes sent are exactly these, and the answer is the same whole and byte by byte."""
    for answer, method, args, sent, value in ANSWERS:
        for piece in (1 << 20, 1, 2, 3):
            assert play(answer, method, *args, piece=piece) == (value, sent), (answer, piece)


def test_an_answer_cut_anywhere_is_no_answer():
    """Wherever the data is cut, a closed connection is reported as such and never as a value."""
    for answer, method, args, _, _ in ANSWERS:
        for length in range(len(answer)):
            assert failure(answer[:length], method, *args) is MemcacheUnexpectedCloseError, (answer, length)


@pytest.mark.parametrize("extra", [b"E", b"END\r\n", b"STORED\r\n", b"VALUE q 0 1\r\nx\r\nEND\r\n"])
def test_bytes_behind_an_answer_are_trouble(extra):
    """An answer with something behind it is refused: the rest would answer the next call."""
    for answer, method, args, _, _ in ANSWERS:
        assert failure(answer + extra, method, *args) is not None, answer


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"ERROR\r\n", MemcacheUnknownCommandError),
        (b"ERROR Unknown command\r\n", MemcacheUnknownCommandError),
        (b"CLIENT_ERROR\r\n", MemcacheClientError),
        (b"SERVER_ERROR read-only\r\n", MemcacheServerError),
        (b"HELLO\r\n", MemcacheUnknownError),
        (b"END \r\n", MemcacheUnknownError),
        (b"\r\n", MemcacheUnknownError),
    ],
)
def test_every_other_line_raises(line, error):
    """Errors raise as what they are; a line that is no answer raises too."""
    for method, args in (
        (KestrelClient.store, ("q", b"x", 0)),
        (KestrelClient.take, ("q", 5)),
        (KestrelClient.confirm, ("q",)),
        (KestrelClient.abort, ("q",)),
        (KestrelClient.ask_version, ()),
    ):
        assert failure(line, method, *args) is error, method


@pytest.mark.parametrize(
    "answer",
    [
        b"VALUE other 0 1\r\nx\r\nEND\r\n",
        b"VALUE q 0 1\r\nx\r\nVALUE q 0 1\r\ny\r\nEND\r\n",
        b"VALUE q 0 -1\r\nx\r\nEND\r\n",
        b"VALUE q 0\r\nx\r\nEND\r\n",
        b"VALUE q 0 1 2\r\nx\r\nEND\r\n",
        b"VALUE q 0 1\r\nx\r\nSTORED\r\n",
        b"VALUE q 0 1\r\nxENDEND\r\nEND\r\n",
    ],
)
def test_a_value_that_does_not_match_is_trouble(answer):
    """A value of another queue, two values, a bad size or a bad end are never handed out."""
    with pytest.raises(MemcacheError):
        play(answer, KestrelClient.take, "q", 0)


def test_keys_longer_than_memcache_allows_with_their_options():
    """A key and its options may be longer than 250 bytes together."""
    key = LONG + "x" * 40
    answer = f"VALUE {key} 0 1\r\nx\r\nEND\r\n".encode()
    assert play(answer, KestrelClient.take, key, 2147483647)[0] == b"x"
    assert play(b"END\r\n", KestrelClient.confirm, key)[1] == f"confirm {key} 1\r\n".encode()


@pytest.mark.parametrize("method", [KestrelClient.take, KestrelClient.store, KestrelClient.confirm, KestrelClient.drop])
def test_a_bad_key_sends_nothing(method):
    """A key with a byte that Kestrel could read as a command is refused before anything is sent."""
    args = {KestrelClient.take: (0,), KestrelClient.store: (b"x", 0)}.get(method, ())
    for key in ("", "a b", "a\r\nflush_all", "a\0b", "a\n", " a", "a\x7f"):
        codec, tape = KestrelClient(Bridge()), Tape(b"STORED\r\n", 99)
        codec.sock = tape
        with pytest.raises(MemcacheIllegalInputError):
            method(codec, key, *args)
        assert tape.sent == b""


def test_many_sets_keep_the_answers_that_came():
    """Answers in order, refusals among them; after a cut the rest have none."""
    items = [("q", b"%d" % i, i) for i in range(100)]
    outcomes, sent = [], [0]
    answer = b"STORED\r\nNOT_STORED\r\nSERVER_ERROR full\r\n" + b"STORED\r\n" * 60
    with pytest.raises(MemcacheUnexpectedCloseError):
        play(answer, KestrelClient.store_many, items, outcomes, sent)
    assert outcomes[:2] == [True, False]
    assert isinstance(outcomes[2], MemcacheServerError)
    assert len(outcomes) == 63
    assert sent == [100]


def test_the_codec_never_connects():
    """A client without a connection raises; pymemcache would open one by itself."""
    codec = KestrelClient(Bridge())
    with pytest.raises(MemcacheUnknownError):
        codec.store("q", b"x", 0)
    with pytest.raises(MemcacheUnknownError):
        codec.take("q", 0)
