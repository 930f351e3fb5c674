"""Kestrel's commands on top of pymemcache: bytes out, one checked answer in.

Owns what is sent and what counts as a clean answer. Never connects, keeps no state between calls, and knows the
connection only as a socket (`Wire`). Its methods block, so they run inside a Bridge.

A clean answer is complete, is for the requested queue, and has no bytes after it: unread bytes would be read as the
answer to the next call.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, Protocol

from pymemcache.client.base import Client, _readline, _readvalue
from pymemcache.exceptions import (
    MemcacheIllegalInputError,
    MemcacheServerError,
    MemcacheUnexpectedCloseError,
    MemcacheUnknownError,
)

from gateway.kestrel.wire.bridge import Bridge

BATCH_BYTES = 256 * 1024
BATCH_ITEMS = 64

Put = tuple[str, bytes, int]
"""Key, data and expiry as on the wire."""

_KEY = re.compile(rb"[\x21-\x2e\x30-\x7e\x80-\xff][\x21-\x7e\x80-\xff]*")
_NAME = re.compile(rb"(?:\A|\n)queue '([^'\r\n]*)' \{\r")
_SETTLED = (b"END",)
_DELETED = (b"DELETED", b"END")
_STATUSES = (b"UP", b"WRITEAVOID", b"READONLY", b"QUIESCENT", b"DOWN")


class Wire(Protocol):
    """What the codec needs of a connection. `received` counts the bytes returned since the call began.

    `more_time` restarts the call's time limit, after a complete answer to a part of it.
    """

    received: int

    def sendall(self, data: bytes) -> None: ...
    def recv(self, size: int) -> bytes: ...
    def more_time(self) -> None: ...


class KestrelClient(Client):  # type: ignore[misc]
    """pymemcache's client with Kestrel's options and answers, and the greenlet in which its calls run."""

    sock: Any

    def __init__(self, bridge: Bridge) -> None:
        super().__init__("unix:unused", default_noreply=False)
        self.bridge = bridge
        self._read = 0

    def _connect(self) -> NoReturn:
        raise MemcacheUnknownError("the connection is closed")

    def close(self) -> None:
        """Only forgets the connection, which closes itself on every error of a call."""
        self.sock = None

    def check_key(self, key: str | bytes, key_prefix: bytes) -> bytes:  # noqa: ARG002  (pymemcache's signature)
        """The key as bytes, options included: pymemcache's limit of 250 bytes would count them."""
        data = key.encode() if isinstance(key, str) else key
        if not _KEY.fullmatch(data):
            raise MemcacheIllegalInputError("the key is empty, or contains a space or a control byte")
        return data

    def _extract_value(
        self,
        expect_cas: bool,  # noqa: ARG002  (pymemcache's signature)
        line: bytes,
        buf: bytes,
        remapped_keys: dict[bytes, Any],
        prefixed_keys: list[bytes],
    ) -> tuple[Any, bytes, bytes]:
        """One VALUE block. Kestrel answers `get q/open` with `VALUE q`, but pymemcache looks for the key it sent."""
        sent = prefixed_keys[0]
        name, size = _value_line(line)
        if self._read or name not in (sent.partition(b"/")[0], sent):
            raise MemcacheUnknownError("a second value, or a value of another queue")
        buf, value = _readvalue(self.sock, buf, size)
        self._read += len(line) + size + 4
        return remapped_keys[sent], value, buf

    def _clean(self, length: int) -> None:
        """Raises MemcacheUnknownError unless exactly `length` bytes were received in this call."""
        if self.sock.received != length:
            raise MemcacheUnknownError("more bytes than the answer")

    def _line(self, command: bytes) -> bytes:
        """Sends a command with an answer of one line, and returns that line. Raises on an error line."""
        line: bytes = self._misc_cmd([command + b"\r\n"], command.partition(b" ")[0], False)[0]
        self._clean(len(line) + 2)
        return line

    def store(self, key: str, data: bytes, expiry: int) -> bool | None:
        """True only for STORED, False for NOT_STORED."""
        stored: bool | None = self.set(key, data, expiry, noreply=False)
        self._clean(8 if stored is True else 12)
        return stored

    def store_many(self, puts: Sequence[Put], outcomes: list[bool | MemcacheServerError], sent: list[int]) -> None:
        """Pipelined sets. Their answers are appended to `outcomes`; `sent[0]` is how many were sent at all.

        If it raises, the items after len(outcomes) and before sent[0] have no answer. A single item uses pymemcache's
        own method, whose `_store_cmd` supports one item per key.
        """
        if len(puts) == 1:
            sent[0] = 1
            outcomes.append(self._store_one(puts[0]))
            return
        while sent[0] < len(puts):
            batch: list[bytes] = []
            size = 0
            for key, data, expiry in puts[sent[0] : sent[0] + BATCH_ITEMS]:
                if batch and size + len(data) > BATCH_BYTES:
                    break
                batch.append(b"set %b 0 %d %d\r\n%b\r\n" % (self.check_key(key, b""), expiry, len(data), data))
                size += len(data)
            sent[0] += len(batch)
            self.sock.sendall(b"".join(batch))
            rest = b""
            for _ in batch:
                rest, line = _readline(self.sock, rest)
                outcomes.append(self._stored(line))
            if rest:
                raise MemcacheUnknownError("more bytes than the answers")
            self.sock.more_time()

    def _store_one(self, put: Put) -> bool | MemcacheServerError:
        try:
            return self.store(*put) is True
        except MemcacheServerError as refusal:
            return refusal

    def _stored(self, line: bytes) -> bool | MemcacheServerError:
        if line == b"STORED":
            return True
        if line == b"NOT_STORED":
            return False
        try:
            self._raise_errors(line, b"set")
        except MemcacheServerError as refusal:
            return refusal
        raise MemcacheUnknownError(line[:32])

    def take(self, key: str, wait_ms: int) -> bytes | None:
        """The next item, set aside for this connection (`/open`), or None. `wait_ms` 0 asks without waiting."""
        return self._get(f"{key}/t={wait_ms}/open" if wait_ms else f"{key}/open")

    def peek(self, key: str) -> bytes | None:
        """The head item, which stays in place, or None."""
        return self._get(f"{key}/peek")

    def _get(self, key: str) -> bytes | None:
        self._read = 0
        value: bytes | None = self.get(key)
        self._clean(self._read + 5)
        return value

    def confirm(self, key: str) -> None:
        """Removes the item of one open read of this connection for good; the answer proves it."""
        self._expect(b"confirm %b 1" % self.check_key(key, b""), _SETTLED)

    def close_read(self, key: str) -> None:
        """Settles the open read on a server without `confirm`. The answer is the same if there was none."""
        self._expect(b"get %b/close" % self.check_key(key, b""), _SETTLED)

    def abort(self, key: str) -> None:
        """Puts the item of the open read back to the head of its queue."""
        self._expect(b"get %b/abort" % self.check_key(key, b""), _SETTLED)

    def flush(self, key: str) -> None:
        """Removes the items of the queue that are not set aside."""
        self._line(b"flush %b" % self.check_key(key, b""))

    def drop(self, key: str) -> None:
        """Deletes the queue with its items and open reads. Succeeds also for a queue that never existed."""
        self._expect(b"delete %b" % self.check_key(key, b""), _DELETED)

    def ask_version(self) -> str:
        """The server's version, such as `2.4.8-SNAPSHOT`."""
        line = self._line(b"version")
        if not line.startswith(b"VERSION "):
            raise MemcacheUnknownError(line[:32])
        return line[8:].decode("utf-8", "replace")

    def ask_status(self) -> str:
        """`UP`, `WRITEAVOID`, `READONLY`, `QUIESCENT` or `DOWN`."""
        line = self._line(b"status")
        if line not in _STATUSES:
            raise MemcacheUnknownError(line[:32])
        return line.decode()

    def set_status(self, status: str) -> None:
        """Sets the status of the server: `up`, `readonly` or `quiescent`."""
        self._expect(b"status " + status.encode(), (*_SETTLED, *_STATUSES))

    def refuse_confirm(self) -> None:
        """Sends a `confirm` that cannot confirm anything. Returns on its ERROR. Touches and creates no queue."""
        self.sock.sendall(b"confirm probe 1\r\n")
        rest, line = _readline(self.sock, b"")
        if rest or not line.startswith(b"ERROR"):
            raise MemcacheUnknownError(line[:32])

    def dump_stats(self, *keys: str) -> list[str]:
        """The lines of `dump_stats`, for these queues or for all, without END."""
        return self._lines(b" ".join([b"dump_stats", *(self.check_key(key, b"") for key in keys)]))

    def all_stats(self) -> list[str]:
        """The lines of `stats`, without END."""
        return self._lines(b"stats")

    def queue_names(self) -> list[str]:
        """The name of every queue, from `dump_stats`; their statistics are skipped."""
        return [name.decode("utf-8", "replace") for part in self._parts(b"dump_stats") for name in _NAME.findall(part)]

    def stat(self, name: str) -> str | None:
        """One value of `stats`, or None if it is missing; other values are skipped."""
        line = re.compile(rb"(?:\A|\n)STAT %b (.*)\r" % re.escape(name.encode()))
        found = [match for part in self._parts(b"stats") for match in line.findall(part)]
        return found[0].decode("utf-8", "replace") if found else None

    def _lines(self, command: bytes) -> list[str]:
        lines: list[str] = []
        for part in self._parts(command):
            lines += part.decode("utf-8", "replace").split("\r\n")[:-1]
        return lines

    def _parts(self, command: bytes) -> Iterator[bytes]:
        """The answer without its END, in parts of whole lines with line ends: as many as were received together.

        One turn of the loop reads only one part, however long the answer is.
        """
        self.sock.sendall(command + b"\r\n")
        rest = b""
        first = True
        while True:
            data = self.sock.recv(BATCH_BYTES)
            if not data:
                raise MemcacheUnexpectedCloseError
            text, end, rest = (rest + data).rpartition(b"\r\n")
            if not end:
                continue
            if first:
                self._raise_errors(text.partition(b"\r\n")[0], command)
                first = False
            lines = b"\r\n" + text + end
            over = lines.find(b"\r\nEND\r\n")
            if over < 0:
                yield lines[2:]
                continue
            if rest or over + 7 < len(lines):
                raise MemcacheUnknownError("more bytes than the answer")
            if over:
                yield lines[2 : over + 2]
            return

    def _expect(self, command: bytes, answers: tuple[bytes, ...]) -> None:
        line = self._line(command)
        if line not in answers:
            raise MemcacheUnknownError(line[:32])


def _value_line(line: bytes) -> tuple[bytes, int]:
    fields = line.split(b" ")
    if len(fields) != 4 or fields[0] != b"VALUE" or not fields[3].isdigit():
        raise MemcacheUnknownError(line[:32])
    return fields[1], int(fields[3])


class Codecs:
    """Lends clients with a ready greenlet. Only a client whose call ended cleanly is reused.

    A greenlet is lent for one call. An idle or pinned connection has none, so it costs no stack.
    """

    def __init__(self, spare: int = 64) -> None:
        self._spare = spare
        self._ready: list[KestrelClient] = []

    def lend(self) -> KestrelClient:
        """A client that is not in use."""
        return self._ready.pop() if self._ready else KestrelClient(Bridge())

    def give_back(self, client: KestrelClient) -> None:
        """Keeps the client for a later call, up to a small number."""
        if len(self._ready) < self._spare:
            self._ready.append(client)

    def close(self) -> None:
        """Ends the greenlets that are not in use."""
        for client in self._ready:
            client.bridge.end()
        self._ready.clear()
