"""pymemcache's client with Kestrel's keys and values: one command out, one checked answer in.

Owns what counts as a clean answer: it is complete, is for the requested queue, and has no bytes after it. Unread bytes
would be read as the answer to the next call. Never connects, keeps no state between calls, and knows the connection
only as a socket (`Wire`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, NoReturn, Protocol

from pymemcache.client.base import Client, _readvalue
from pymemcache.exceptions import MemcacheIllegalInputError, MemcacheUnexpectedCloseError, MemcacheUnknownError

RECEIVE_BYTES: Final = 256 * 1024
_KEY: Final = re.compile(rb"[\x21-\x2e\x30-\x7e\x80-\xff][\x21-\x7e\x80-\xff]*")


class Wire(Protocol):
    """What a client needs from a connection. `received` counts the bytes returned since the call began."""

    received: int

    def sendall(self, data: bytes) -> None: ...
    def recv(self, size: int) -> bytes: ...


class CheckedClient(Client):  # type: ignore[misc]
    """Sends single commands and reads their answers. `sock` is a Wire during a call, otherwise None."""

    sock: Any

    def __init__(self) -> None:
        super().__init__("unix:unused", default_noreply=False)
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

    def _expect(self, command: bytes, answers: tuple[bytes, ...]) -> None:
        line = self._line(command)
        if line not in answers:
            raise MemcacheUnknownError(line[:32])

    def _get(self, key: str) -> bytes | None:
        self._read = 0
        value: bytes | None = self.get(key)
        self._clean(self._read + 5)
        return value

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
            data = self.sock.recv(RECEIVE_BYTES)
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


def _value_line(line: bytes) -> tuple[bytes, int]:
    fields = line.split(b" ")
    if len(fields) != 4 or fields[0] != b"VALUE" or not fields[3].isdigit():
        raise MemcacheUnknownError(line[:32])
    return fields[1], int(fields[3])
