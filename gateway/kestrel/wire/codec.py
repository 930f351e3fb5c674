"""Kestrel's commands in pymemcache's words: bytes out, one checked answer in.

Owns what is sent and what counts as a clean answer. Never connects, keeps no state between calls, and knows the
connection only as a socket (`Wire`). Its methods block, so they run inside a Bridge.

A clean answer is complete, is for the queue that was asked, and has nothing behind it: unread bytes would be taken
for the next call's answer.
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
    """What the codec needs of a connection. `received` counts the bytes handed out since the call began.

    `more_time` gives the call its whole time again, after a complete answer to a part of it.
    """

    received: int

    def sendall(self, data: bytes) -> None: ...
    def recv(self, size: int) -> bytes: ...
    def more_time(self) -> None: ...


class KestrelClient(Client):  # type: ignore[misc]
    """pymemcache's client with Kestrel's options and answers, and the greenlet its calls run in."""

    sock: Any

    def __init__(self, bridge: Bridge) -> None:
        super().__init__("unix:unused", default_noreply=False)
        self.bridge = bridge
        self._read = 0

    def _connect(self) -> NoReturn:
        raise MemcacheUnknownError("the connection is closed")

    def close(self) -> None:
        """Only lets go of the connection, which closes itself on whatever error a call ends with."""
        self.sock = None

    def check_key(self, key: str | bytes, key_prefix: bytes) -> bytes:  # noqa: ARG002  (pymemcache's signature)
        """The key as bytes, options included: pymemcache's 250 bytes would count them."""
        data = key.encode() if isinstance(key, str) else key
        if not _KEY.fullmatch(data):
            raise MemcacheIllegalInputError("a key holds a space or control byte, or is empty")
        return data

    def _extract_value(
        self,
        expect_cas: bool,  # noqa: ARG002  (pymemcache's signature)
        line: bytes,
        buf: bytes,
        remapped_keys: dict[bytes, Any],
        prefixed_keys: list[bytes],
    ) -> tuple[Any, bytes, bytes]:
        """One VALUE block. Kestrel answers `get q/open` with `VALUE q`; pymemcache looks for the key it sent."""
        sent = prefixed_keys[0]
        name, size = _value_line(line)
        if self._read or name not in (sent.partition(b"/")[0], sent):
            raise MemcacheUnknownError("a second value, or one of another queue")
        buf, value = _readvalue(self.sock, buf, size)
        self._read += len(line) + size + 4
        return remapped_keys[sent], value, buf

    def _clean(self, length: int) -> None:
        """Raises MemcacheUnknownError unless exactly `length` bytes were received in this call."""
        if self.sock.received != length:
            raise MemcacheUnknownError("more bytes than the answer")

    def _line(self, command: bytes) -> bytes:
        """Sends a command that is answered by one line, and returns that line. Errors raise."""
        line: bytes = self._misc_cmd([command + b"\r\n"], command.partition(b" ")[0], False)[0]
        self._clean(len(line) + 2)
        return line

    def store(self, key: str, data: bytes, expiry: int) -> bool | None:
        """True only for STORED, False for NOT_STORED."""
        stored: bool | None = self.set(key, data, expiry, noreply=False)
        self._clean(8 if stored is True else 12)
        return stored

    def store_many(self, puts: Sequence[Put], outcomes: list[bool | MemcacheServerError], sent: list[int]) -> None:
        """Pipelined sets, whose answers are appended to `outcomes`; `sent[0]` is how many went out at all.

        When it raises, the items after len(outcomes) and before sent[0] have no answer. One alone goes pymemcache's
        own way, since its `_store_cmd` knows one item a key.
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
        """The head item, left where it is, or None."""
        return self._get(f"{key}/peek")

    def _get(self, key: str) -> bytes | None:
        self._read = 0
        value: bytes | None = self.get(key)
        self._clean(self._read + 5)
        return value

    def confirm(self, key: str) -> None:
        """One open read of this connection is gone for good, and that is proved."""
        self._expect(b"confirm %b 1" % self.check_key(key, b""), _SETTLED)

    def close_read(self, key: str) -> None:
        """Settles the open read where there is no `confirm`. The answer is the same when there was none."""
        self._expect(b"get %b/close" % self.check_key(key, b""), _SETTLED)

    def abort(self, key: str) -> None:
        """The open read goes back to the head of its queue."""
        self._expect(b"get %b/abort" % self.check_key(key, b""), _SETTLED)

    def flush(self, key: str) -> None:
        """Drops the items of the queue that nobody has set aside."""
        self._line(b"flush %b" % self.check_key(key, b""))

    def drop(self, key: str) -> None:
        """Drops the queue with its items and its open reads. True also for a queue that never was."""
        self._expect(b"delete %b" % self.check_key(key, b""), _DELETED)

    def ask_version(self) -> str:
        """What the server calls itself, such as `2.4.8-SNAPSHOT`."""
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
        """The server stands so from now on. `status`: `up`, `readonly` or `quiescent`."""
        self._expect(b"status " + status.encode(), (*_SETTLED, *_STATUSES))

    def refuse_confirm(self) -> None:
        """A `confirm` that cannot confirm anything; returns on its ERROR. Touches and creates no queue."""
        self.sock.sendall(b"confirm probe 1\r\n")
        rest, line = _readline(self.sock, b"")
        if rest or not line.startswith(b"ERROR"):
            raise MemcacheUnknownError(line[:32])

    def dump_stats(self, *keys: str) -> list[str]:
        """The lines of `dump_stats`, of these queues or of all, without END."""
        return self._lines(b" ".join([b"dump_stats", *(self.check_key(key, b"") for key in keys)]))

    def all_stats(self) -> list[str]:
        """The lines of `stats`, without END."""
        return self._lines(b"stats")

    def queue_names(self) -> list[str]:
        """The name of every queue, out of `dump_stats`; what it tells of them is passed over unread."""
        return [name.decode("utf-8", "replace") for part in self._parts(b"dump_stats") for name in _NAME.findall(part)]

    def stat(self, name: str) -> str | None:
        """One value of `stats`, None where it is not told; the others are passed over unread."""
        line = re.compile(rb"(?:\A|\n)STAT %b (.*)\r" % re.escape(name.encode()))
        found = [match for part in self._parts(b"stats") for match in line.findall(part)]
        return found[0].decode("utf-8", "replace") if found else None

    def _lines(self, command: bytes) -> list[str]:
        lines: list[str] = []
        for part in self._parts(command):
            lines += part.decode("utf-8", "replace").split("\r\n")[:-1]
        return lines

    def _parts(self, command: bytes) -> Iterator[bytes]:
        """The answer without its END, each part some whole lines with their ends: as many as came together.

        A part is all that is looked at in one turn of the loop, however long the answer is.
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
    """Lends clients with a ready greenlet. Only a client whose call ended cleanly comes back.

    A greenlet is lent for one call and is not kept by the connection: an idle or pinned connection costs no stack.
    """

    def __init__(self, spare: int = 64) -> None:
        self._spare = spare
        self._ready: list[KestrelClient] = []

    def lend(self) -> KestrelClient:
        """A client nobody else uses."""
        return self._ready.pop() if self._ready else KestrelClient(Bridge())

    def give_back(self, client: KestrelClient) -> None:
        """Keeps the client for the next call, up to a small number."""
        if len(self._ready) < self._spare:
            self._ready.append(client)

    def close(self) -> None:
        """Ends the greenlets that nobody uses."""
        for client in self._ready:
            client.bridge.end()
        self._ready.clear()
