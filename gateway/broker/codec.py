"""The Kestrel memcache protocol as values: bytes in, commands out, answers to bytes. Knows no sockets and no queues.

Rules that every command line follows (kestrel-2.4.8-transcript.txt, kestrel-wire.md): a line ends with LF, one CR
before it is dropped; fields are split on single spaces and empty fields at the end are dropped, so two spaces shift the
fields; the command word may be in any case; the first key counts, what follows is ignored.

Where Kestrel answers `CLIENT_ERROR` it carries no text, and neither does ours. Where Kestrel drops the connection
without a word, ours says why before it closes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

MAX_LINE_BYTES = 65536
MAX_INT = 2**31 - 1
_CACHE_LINES = 1024
_CACHE_LINE_BYTES = 300
_NUMBER = re.compile(rb"[+-]?[0-9]{1,18}\Z")

END = b"END\r\n"
ERROR = b"ERROR\r\n"
STORED = b"STORED\r\n"
NOT_STORED = b"NOT_STORED\r\n"
DELETED = b"DELETED\r\n"
CLIENT_ERROR = b"CLIENT_ERROR\r\n"


class Put(NamedTuple):
    """`set`: `expiry` as sent; seconds from now below 1,000,000, else seconds since the epoch; 0 never."""

    key: bytes
    expiry: int
    data: bytes


class Get(NamedTuple):
    """`get` with its options; `wait_ms` is None where no `t=` was given."""

    key: bytes
    wait_ms: int | None = None
    open: bool = False
    close: bool = False
    abort: bool = False
    peek: bool = False


class Monitor(NamedTuple):
    """`monitor`: at most `limit` items (None: as many as may be open) within `seconds`."""

    key: bytes
    seconds: int
    limit: int | None


class Confirm(NamedTuple):
    key: bytes
    reads: int


class OnQueue(NamedTuple):
    """`flush`, `flush_expired` or `delete`."""

    verb: bytes
    key: bytes


class DumpStats(NamedTuple):
    """`dump_stats`: of these queues, or of all where there are none."""

    keys: tuple[bytes, ...]


class Status(NamedTuple):
    """`status`: ask, or set it to `value` (lower case)."""

    value: bytes | None


class Plain(NamedTuple):
    """A command without arguments: version, stats, flush_all, flush_all_expired, reload, shutdown, quit."""

    verb: bytes


class TooLarge(NamedTuple):
    """A `set` over the server's own limit; its data was skipped."""

    key: bytes


class Refused(NamedTuple):
    """Not a command: the answer to give, and whether to close then."""

    answer: bytes
    close: bool


Command: TypeAlias = Put | Get | Monitor | Confirm | OnQueue | DumpStats | Status | Plain | TooLarge | Refused

MALFORMED = Refused(CLIENT_ERROR, close=True)
MISSING_ARGUMENT = Refused(CLIENT_ERROR, close=False)


def refusal(why: str) -> Refused:
    """The answer and close for what Kestrel would drop without a word."""
    return Refused(b"CLIENT_ERROR " + why.encode("ascii", "replace") + b"\r\n", close=True)


def value(key: bytes, data: bytes) -> bytes:
    """The answer that carries one item. Flags always read back as 0."""
    return b"VALUE %b 0 %d\r\n%b\r\nEND\r\n" % (key, len(data), data)


class Decoder:
    """Turns a connection's bytes into commands, in order, however they were cut.

    Holds at most one line (64 KiB) or one item (`max_item_bytes`) beyond what was fed and not yet asked for. After a
    command that is refused with `close` nothing more is read.
    """

    __slots__ = ("_buffer", "_finished", "_max_item_bytes", "_need", "_position", "_put", "_scanned", "_skip")

    def __init__(self, max_item_bytes: int) -> None:
        self._max_item_bytes = max_item_bytes
        self._buffer: bytes | bytearray = b""
        self._position = 0
        self._scanned = 0  # no LF before this offset
        self._need = 0  # the buffer's length when the item of `_put` is complete
        self._put: list[bytes] | None = None
        self._skip = 0  # bytes of a too large item still to be thrown away
        self._finished = False

    @property
    def buffered(self) -> int:
        """How many bytes were fed and not turned into commands."""
        return len(self._buffer) - self._position

    def feed(self, data: bytes) -> None:
        """Takes what the connection brought."""
        if self._finished:
            return
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        position = self._position
        if position >= len(self._buffer):
            self._buffer = data
            self._need -= position
            self._position = self._scanned = 0
            return
        if not isinstance(self._buffer, bytearray):
            self._buffer = bytearray(memoryview(self._buffer)[position:])
        elif position:
            del self._buffer[:position]
        self._buffer += data
        self._scanned = max(self._scanned - position, 0)
        self._need -= position
        self._position = 0

    def next(self) -> Command | None:
        """The next command, or None until more was fed."""
        if self._put is not None:
            return self._item(self._put)
        if self._finished:
            return None
        buffer, position = self._buffer, self._position
        end = buffer.find(b"\n", max(position, self._scanned))
        if end < 0 or end - position > MAX_LINE_BYTES:
            self._scanned = len(buffer)
            if (len(buffer) if end < 0 else end) - position > MAX_LINE_BYTES:
                return self._finish(refusal("line too long"))
            return None
        self._position = end + 1
        stop = end - 1 if end > position and buffer[end - 1] == 13 else end
        line = bytes(buffer[position:stop])
        cached = _cache.get(line)
        if cached is not None:
            return cached
        fields = line.split(b" ")
        while len(fields) > 1 and not fields[-1]:
            fields.pop()
        verb = fields[0].lower()
        if verb == b"set":
            return self._begin_item(fields)
        if fields == [b""] and line:
            return self._finish(refusal("empty command"))
        command = _parse(verb, fields)
        if isinstance(command, Refused) and command.close:
            return self._finish(command)
        if len(line) <= _CACHE_LINE_BYTES:
            if len(_cache) >= _CACHE_LINES:
                _cache.clear()
            _cache[line] = command
        return command

    def _finish(self, command: Refused) -> Refused:
        self._finished = True
        self._put = None
        self._buffer = b""
        self._position = self._scanned = 0
        return command

    def _begin_item(self, fields: list[bytes]) -> Command | None:
        if len(fields) < 5:
            return self._finish(refusal("set needs key, flags, expiry and length"))
        length = _number(fields[4])
        if length is None or not 0 <= length <= MAX_INT:
            return self._finish(refusal("bad length"))
        if length > self._max_item_bytes:
            return self._skip_item(fields, length)
        self._put = fields
        self._need = self._position + length + 2
        return self._item(fields)

    def _skip_item(self, fields: list[bytes], length: int) -> Command:
        have = len(self._buffer) - self._position
        self._position += min(have, length + 2)
        self._scanned = self._position
        self._skip = max(length + 2 - have, 0)
        return TooLarge(fields[1])

    def _item(self, fields: list[bytes]) -> Command | None:
        buffer, start, need = self._buffer, self._position, self._need
        if len(buffer) < need:
            return None
        if buffer[need - 2] != 13 or buffer[need - 1] != 10:
            return self._finish(refusal("data is not followed by CRLF"))
        self._put = None
        self._position = self._scanned = need
        data = buffer[start : need - 2] if isinstance(buffer, bytes) else bytes(memoryview(buffer)[start : need - 2])
        expiry = _number(fields[3])
        if expiry is None:
            return self._finish(refusal("bad expiry"))
        if not fields[1] or _number(fields[2]) is None:
            return MISSING_ARGUMENT
        return Put(fields[1], expiry, data)


_cache: dict[bytes, Command] = {}
"""Commands by their line: clients repeat the same few lines, and commands are immutable. Bounded."""


def _number(field: bytes) -> int | None:
    return int(field) if _NUMBER.match(field) else None


def _parse(verb: bytes, fields: list[bytes]) -> Command:
    if verb in _PLAIN:
        return Plain(verb)
    parser = _PARSERS.get(verb)
    return MALFORMED if parser is None else parser(verb, fields)


def _get(_: bytes, fields: list[bytes]) -> Command:
    if len(fields) < 2:
        return MISSING_ARGUMENT
    parts = fields[1].split(b"/")
    if len(parts) > 1 and not any(parts):
        return MISSING_ARGUMENT
    wait_ms = None
    for option in parts[1:]:
        if option.startswith(b"t="):
            wait_ms = _number(option[2:])
            if wait_ms is None or not -MAX_INT - 1 <= wait_ms <= MAX_INT:
                return refusal("bad t=")
    opening, closing = b"open" in parts[1:], b"close" in parts[1:]
    aborting, peeking = b"abort" in parts[1:], b"peek" in parts[1:]
    if not parts[0] or ((peeking or aborting) and (opening or closing)) or (peeking and aborting):
        return MALFORMED
    return Get(parts[0], wait_ms, opening, closing, aborting, peeking)


def _monitor(_: bytes, fields: list[bytes]) -> Command:
    seconds = _number(fields[2]) if len(fields) > 2 else None
    if not (len(fields) > 1 and fields[1]) or seconds is None or abs(seconds) > MAX_INT:
        return refusal("monitor needs key and seconds")
    limit = _number(fields[3]) if len(fields) > 3 else None
    if len(fields) > 3 and limit is None:
        return refusal("bad number of items")
    return Monitor(fields[1], seconds, limit)


def _confirm(_: bytes, fields: list[bytes]) -> Command:
    if len(fields) < 3:
        return MISSING_ARGUMENT
    count = _number(fields[2])
    return refusal("bad number of reads") if count is None else Confirm(fields[1], count)


def _on_queue(verb: bytes, fields: list[bytes]) -> Command:
    return OnQueue(verb, fields[1]) if len(fields) > 1 else MISSING_ARGUMENT


def _dump_stats(_: bytes, fields: list[bytes]) -> Command:
    return DumpStats(tuple(fields[1:]))


def _status(_: bytes, fields: list[bytes]) -> Command:
    return Status(fields[1].lower() if len(fields) > 1 else None)


_PLAIN = frozenset((b"version", b"stats", b"flush_all", b"flush_all_expired", b"reload", b"shutdown", b"quit"))
_PARSERS: dict[bytes, Callable[[bytes, list[bytes]], Command]] = {
    b"get": _get,
    b"gets": _get,
    b"monitor": _monitor,
    b"confirm": _confirm,
    b"flush": _on_queue,
    b"flush_expired": _on_queue,
    b"delete": _on_queue,
    b"dump_stats": _dump_stats,
    b"status": _status,
}
