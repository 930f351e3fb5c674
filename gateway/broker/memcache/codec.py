"""Kestrel's memcache protocol as values: bytes in, commands out, answers to bytes. Knows no sockets and no queues.

Rules for every command line (kestrel-2.4.8-transcript.txt, kestrel-wire.md): a line ends with LF, and one CR before it
is dropped; fields are separated by single spaces and empty fields at the end are dropped, so two spaces shift the
fields; the command word may have any case; the first key counts, further keys are ignored.

Where Kestrel answers `CLIENT_ERROR`, it has no text here either. Where Kestrel silently drops the connection, this
module answers `CLIENT_ERROR` with the reason, and the connection is closed.

Every number is checked here: a command from this module contains only numbers that a queue and the disk can store.
Kestrel reads each number as a signed 32-bit integer (MemcacheHandler.scala, `toInt`), except flags, which are unsigned.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, TypeAlias, TypeVar

MAX_LINE_BYTES = 65536
MIN_INT, MAX_INT = -(2**31), 2**31 - 1
MAX_FLAGS = 2**32 - 1
_CACHE_LINES = 1024
_CACHE_LINE_BYTES = 300
_NUMBER = re.compile(rb"[+-]?[0-9]{1,18}\Z")

END = b"END\r\n"
ERROR = b"ERROR\r\n"
STORED = b"STORED\r\n"
NOT_STORED = b"NOT_STORED\r\n"
TOO_LARGE = b"SERVER_ERROR object too large for cache\r\n"
"""memcached's words; Kestrel answers NOT_STORED. Only sent on a Unix socket."""
DELETED = b"DELETED\r\n"
CLIENT_ERROR = b"CLIENT_ERROR\r\n"


class PutCommand(NamedTuple):
    """`set`: `expiry` as sent; seconds from now if below 1,000,000, otherwise seconds since the epoch; 0 means never.

    `noreply`: the client reads no answer, here as in the commands below.
    """

    key: bytes
    expiry: int
    data: bytes
    noreply: bool = False


class GetCommand(NamedTuple):
    """`get` with its options; `wait_ms` is None without `t=`."""

    key: bytes
    wait_ms: int | None = None
    open: bool = False
    close: bool = False
    abort: bool = False
    peek: bool = False


class MonitorCommand(NamedTuple):
    """`monitor`: at most `limit` items (None: as many as may be open) within `seconds`."""

    key: bytes
    seconds: int
    limit: int | None


class ConfirmCommand(NamedTuple):
    key: bytes
    reads: int


class QueueCommand(NamedTuple):
    """`flush`, `flush_expired` or `delete`; only `delete` has a `noreply`."""

    verb: bytes
    key: bytes
    noreply: bool = False


class DumpStatsCommand(NamedTuple):
    """`dump_stats`: of these queues, or of all if there are none."""

    keys: tuple[bytes, ...]


class StatusCommand(NamedTuple):
    """`status`: asks, or sets it to `value` (lower case)."""

    value: bytes | None


class PlainCommand(NamedTuple):
    """A command without arguments: version, stats, stats storage, flush_all, flush_all_expired, reload, shutdown, quit.

    Only `flush_all` has a `noreply`.
    """

    verb: bytes
    noreply: bool = False


class TooLarge(NamedTuple):
    """A `set` above the server's own limit; its data was skipped."""

    key: bytes
    noreply: bool = False


class Refused(NamedTuple):
    """Not a command: the answer, and whether to close after it."""

    answer: bytes
    close: bool


class Foreign(NamedTuple):
    """A client of another protocol, by its first bytes: `protocol` for the log, and the last answer before the
    close."""

    protocol: str
    answer: bytes


Command: TypeAlias = (
    PutCommand
    | GetCommand
    | MonitorCommand
    | ConfirmCommand
    | QueueCommand
    | DumpStatsCommand
    | StatusCommand
    | PlainCommand
    | TooLarge
    | Refused
    | Foreign
)

MALFORMED = Refused(CLIENT_ERROR, close=True)
MISSING_ARGUMENT = Refused(CLIENT_ERROR, close=False)
SILENT = Refused(b"", close=False)
"""What is wrong with a command that wants no answer."""


def refusal(why: str) -> Refused:
    """An answer and a close, where Kestrel would silently drop the connection."""
    return Refused(b"CLIENT_ERROR " + why.encode("ascii", "replace") + b"\r\n", close=True)


def value(key: bytes, data: bytes) -> bytes:
    """The answer with one item. Flags always read back as 0."""
    return b"VALUE %b 0 %d\r\n%b\r\nEND\r\n" % (key, len(data), data)


_Last = TypeVar("_Last", Refused, Foreign)


class Decoder:
    """Turns a connection's bytes into commands, in order, however they were split.

    Holds at most one line (64 KiB) or one item (`max_item_bytes`) in addition to what was fed and not yet read. After a
    command that is refused with `close` it reads nothing more.
    """

    __slots__ = (
        "_begun",
        "_buffer",
        "_expiry",
        "_finished",
        "_max_item_bytes",
        "_need",
        "_position",
        "_put",
        "_scanned",
        "_skip",
    )

    def __init__(self, max_item_bytes: int) -> None:
        self._max_item_bytes = max_item_bytes
        self._buffer: bytes | bytearray = b""
        self._position = 0
        self._scanned = 0  # no LF before this offset
        self._need = 0  # the length of the buffer when the item of `_put` is complete
        self._put: list[bytes] | None = None
        self._expiry = 0  # of `_put`
        self._skip = 0  # bytes of a too large item that are still to be discarded
        self._finished = False
        self._begun = False  # whether the first line was checked

    @property
    def buffered(self) -> int:
        """Bytes that were fed and not yet turned into commands."""
        return len(self._buffer) - self._position

    def close(self) -> None:
        """Discards what was fed; accepts nothing more."""
        self._finished = True
        self._put = None
        self._buffer = b""
        self._position = self._scanned = 0

    def feed(self, data: bytes) -> None:
        """Adds bytes from the connection."""
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
        """The next command, or None until more bytes are fed."""
        if self._put is not None:
            return self._item(self._put)
        if self._finished:
            return None
        buffer, position = self._buffer, self._position
        if not self._begun and position < len(buffer):
            foreign = other_protocol(bytes(buffer[position : position + _PREFACE_BYTES]))
            if foreign is not None:
                return self._finish(foreign)
        end = buffer.find(b"\n", max(position, self._scanned))
        if end < 0 or end - position > MAX_LINE_BYTES:
            self._scanned = len(buffer)
            if (len(buffer) if end < 0 else end) - position > MAX_LINE_BYTES:
                return self._finish(refusal("line too long"))
            return None
        self._begun = True
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

    def _finish(self, command: _Last) -> _Last:
        self.close()
        return command

    def _begin_item(self, fields: list[bytes]) -> Command | None:
        if len(fields) < 5:
            return self._finish(refusal("set needs key, flags, expiry and length"))
        length = _integer(fields[4], low=0)
        if length is None:
            return self._finish(refusal(_range("length", fields[4], low=0)))
        expiry = _integer(fields[3])
        silent = len(fields) > 5 and _is_silent(fields, 5)
        if expiry is None:
            if not silent:
                return self._finish(refusal(_range("expiry", fields[3])))
            self._skip_item(length)
            return SILENT
        if length > self._max_item_bytes:
            self._skip_item(length)
            return TooLarge(fields[1], silent)
        self._put = fields
        self._expiry = expiry
        self._need = self._position + length + 2
        return self._item(fields)

    def _skip_item(self, length: int) -> None:
        """The item's bytes are no command: those that are here, and those that are still to come."""
        have = len(self._buffer) - self._position
        self._position += min(have, length + 2)
        self._scanned = self._position
        self._skip = max(length + 2 - have, 0)

    def _item(self, fields: list[bytes]) -> Command | None:
        buffer, start, need = self._buffer, self._position, self._need
        if len(buffer) < need:
            return None
        if buffer[need - 2] != 13 or buffer[need - 1] != 10:
            return self._finish(refusal("data is not followed by CRLF"))
        self._put = None
        self._position = self._scanned = need
        data = buffer[start : need - 2] if isinstance(buffer, bytes) else bytes(memoryview(buffer)[start : need - 2])
        silent = len(fields) > 5 and _is_silent(fields, 5)
        if not fields[1] or _integer(fields[2], high=MAX_FLAGS) is None:
            return SILENT if silent else MISSING_ARGUMENT
        return PutCommand(fields[1], self._expiry, data, silent)


_HTTP = re.compile(rb"[A-Z]{1,16} \S+ HTTP/[0-9]")
_PREFACE_BYTES = 4096
_PORT = b"this port speaks the memcache protocol of Kestrel"


def other_protocol(begin: bytes) -> Foreign | None:
    """The other protocol to which a connection's first bytes belong; None if they may be a command.

    Bytes that begin no command are reported at once: such a client waits for an answer and sends no line end. Version 2
    of the PROXY protocol begins with an empty line, so it is recognized only where more than that line has arrived;
    otherwise the line is refused like any empty command.
    """
    first = begin[0]
    if first == 0x80:
        return Foreign("binary memcache", b"")
    if first == 0x16:
        return Foreign("TLS", b"")
    if begin.startswith(b"\r\n\r\n\x00"):
        return Foreign("the PROXY protocol", b"")
    if begin.startswith((b"PROXY TCP", b"PROXY UNKNOWN")):
        return Foreign("the PROXY protocol", b"CLIENT_ERROR %b, not the PROXY protocol\r\n" % _PORT)
    if _HTTP.match(begin):
        return Foreign("HTTP", b"CLIENT_ERROR %b, not HTTP\r\n" % _PORT)
    if (first < 0x20 and first not in b"\r\n") or first >= 0x7F:
        return Foreign("an unknown protocol", b"")
    return None


_cache: dict[bytes, Command] = {}
"""Commands by their line: clients repeat a few lines, and commands are immutable. Bounded."""


def _integer(field: bytes, low: int = MIN_INT, high: int = MAX_INT) -> int | None:
    """The number, or None if it is not a number or out of range."""
    if not _NUMBER.match(field):
        return None
    number = int(field)
    return number if low <= number <= high else None


def _range(what: str, field: bytes, low: int = MIN_INT) -> str:
    shown = field[:40].decode("ascii", "replace")
    return f"{what}: {shown!r} is not a whole number from {low} to {MAX_INT}"


def _is_silent(fields: list[bytes], arguments: int) -> bool:
    """Whether `noreply` is the last field, after at least as many fields as the command needs."""
    return len(fields) > arguments and fields[-1] == b"noreply"


def _parse(verb: bytes, fields: list[bytes]) -> Command:
    if verb == b"stats" and fields[1:2] == [b"storage"]:
        return PlainCommand(b"stats storage")
    if verb in _PLAIN:
        return PlainCommand(verb, verb == b"flush_all" and _is_silent(fields, 1))
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
            wait_ms = _integer(option[2:])
            if wait_ms is None:
                return refusal(_range("t=", option[2:]))
    opening, closing = b"open" in parts[1:], b"close" in parts[1:]
    aborting, peeking = b"abort" in parts[1:], b"peek" in parts[1:]
    if not parts[0] or ((peeking or aborting) and (opening or closing)) or (peeking and aborting):
        return MALFORMED
    return GetCommand(parts[0], wait_ms, opening, closing, aborting, peeking)


def _monitor(_: bytes, fields: list[bytes]) -> Command:
    if len(fields) < 3 or not fields[1]:
        return refusal("monitor needs key and seconds")
    seconds = _integer(fields[2])
    if seconds is None:
        return refusal(_range("seconds", fields[2]))
    limit = _integer(fields[3]) if len(fields) > 3 else None
    if len(fields) > 3 and limit is None:
        return refusal(_range("number of items", fields[3]))
    return MonitorCommand(fields[1], seconds, limit)


def _confirm(_: bytes, fields: list[bytes]) -> Command:
    if len(fields) < 3:
        return MISSING_ARGUMENT
    count = _integer(fields[2])
    return refusal(_range("number of reads", fields[2])) if count is None else ConfirmCommand(fields[1], count)


def _on_queue(verb: bytes, fields: list[bytes]) -> Command:
    if len(fields) < 2:
        return MISSING_ARGUMENT
    return QueueCommand(verb, fields[1], verb == b"delete" and _is_silent(fields, 2))


def _dump_stats(_: bytes, fields: list[bytes]) -> Command:
    return DumpStatsCommand(tuple(fields[1:]))


def _status(_: bytes, fields: list[bytes]) -> Command:
    return StatusCommand(fields[1].lower() if len(fields) > 1 else None)


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
