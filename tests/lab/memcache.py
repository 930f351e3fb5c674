"""The smallest client of Kestrel's memcache protocol."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import Final

TAKEN_AT_ONCE: Final = 100
READ_BYTES: Final = 1 << 20


class MemcacheClient:
    """One connection to a server that speaks Kestrel's protocol: bytes out, bytes in.

    address: HOST:PORT or unix:PATH. Every read raises TimeoutError, or EOFError if the server closes before.
    """

    def __init__(self, address: str, timeout_s: float = 5) -> None:
        scheme, _, path = address.partition(":")
        if scheme == "unix":
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(timeout_s)
            self.socket.connect(path)
        else:
            self.socket = socket.create_connection((scheme, int(path)), timeout_s)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()  # of bytes, each piece of a large item would copy all pieces before it

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes."""
        while len(self.buffer) < count:
            self._receive()
        return self._take(count)

    def read_until(self, end: bytes) -> bytes:
        while end not in self.buffer:
            self._receive()
        return self._take(self.buffer.index(end) + len(end))

    def read_all(self) -> bytes:
        """Everything up to the server's close."""
        with contextlib.suppress(ConnectionResetError):
            while data := self.socket.recv(READ_BYTES):
                self.buffer += data
        return self._take(len(self.buffer))

    def _receive(self) -> None:
        data = self.socket.recv(READ_BYTES)
        if not data:
            raise EOFError(bytes(self.buffer))
        self.buffer += data

    def _take(self, count: int) -> bytes:
        with memoryview(self.buffer) as view:
            data = bytes(view[:count])
        del self.buffer[:count]
        return data

    def line(self) -> bytes:
        return self.read_until(b"\r\n")

    def ask(self, data: bytes) -> bytes:
        """Sends a command whose answer is one line, and returns it."""
        self.send(data)
        return self.line()

    def put(self, key: str, data: bytes, expiry: int = 0) -> bytes:
        self.send(b"set %s 0 %d %d\r\n%s\r\n" % (key.encode(), expiry, len(data), data))
        return self.line()

    def get(self, key: str) -> bytes | None:
        """One item by `get key`, options included; None for END."""
        self.send(f"get {key}\r\n".encode())
        return self.value()

    def value(self) -> bytes | None:
        line = self.line()
        if line == b"END\r\n":
            return None
        word, _, _, length = line.split()
        assert word == b"VALUE", line
        data = self.read(int(length))
        assert self.read(7) == b"\r\nEND\r\n"
        return data

    def take_all(self, key: str) -> Iterator[bytes]:
        """Takes item after item until the queue is empty: many gets are under way, since each waits for its commit."""
        while True:
            self.send(f"get {key}\r\n".encode() * TAKEN_AT_ONCE)
            found = [self.value() for _ in range(TAKEN_AT_ONCE)]
            yield from (each for each in found if each is not None)
            if None in found:
                return

    def queues(self) -> dict[str, dict[str, int]]:
        """Every queue's figures by `dump_stats`, by its key."""
        self.send(b"dump_stats\r\n")
        found: dict[str, dict[str, int]] = {}
        name = ""
        while (line := self.line().decode().rstrip("\r\n")) != "END":
            if line.startswith("queue '"):
                name = line.split("'")[1]
                found[name] = {}
            elif "=" in line:
                figure, _, value = line.strip().partition("=")
                if value.lstrip("-").isdigit():
                    found[name][figure] = int(value)
        return found

    def stats(self) -> dict[str, str]:
        self.send(b"stats\r\n")
        lines = self.read_until(b"END\r\n").decode("latin-1").split("\r\n")
        return dict(line.split(" ", 2)[1:] for line in lines if line.startswith("STAT "))

    def reset(self) -> None:
        """Closes with RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        self.socket.close()
