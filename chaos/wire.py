"""The smallest blocking clients that tell how far a request got: one of HTTP, one of the memcache protocol."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """A problem's stable code; empty if the answer is not a problem."""
        return str(self.json().get("code", "")) if "problem" in self.headers.get("content-type", "") else ""

    def json(self) -> Any:
        return json.loads(self.body)


class Http:
    """One keep-alive connection, opened when it is needed. Every method raises OSError when it ends too early."""

    def __init__(self, port: int, timeout_s: float) -> None:
        self._port = port
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Sends a request and returns its whole answer; a failed connection is not tried again."""
        try:
            self.send(method, path, body, **headers)
            return self.answer()
        except OSError:
            self.close()
            raise

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> None:
        if self._socket is None:
            self._socket = socket.create_connection((HOST, self._port), self._timeout_s)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        content = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}:{self._port}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if method != "GET":
            lines += ["Content-Type: application/json"] if body is not None else []
            lines += [f"Content-Length: {len(content)}"]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode() + content)

    def answer(self) -> Answer:
        assert self._socket is not None
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._more()
        head, _, body = received.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        while len(body) < int(headers.get("content-length", "0")):
            body += self._more()
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(int(status_line.split()[1]), headers, body)

    def close(self) -> None:
        """Closes it, whatever is under way."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _more(self) -> bytes:
        assert self._socket is not None
        chunk = self._socket.recv(65536)
        if not chunk:
            raise ConnectionResetError("the connection ended within an answer")
        return chunk


class Memcache:
    """One connection to a Kestrel-protocol server."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((HOST, port), 10)
        self._file = self._socket.makefile("rb")

    def queues(self) -> dict[str, dict[str, int]]:
        """Every queue's figures, by its key."""
        self._socket.sendall(b"dump_stats\r\n")
        found: dict[str, dict[str, int]] = {}
        name = ""
        while (line := self._line()) != "END":
            if line.startswith("queue '"):
                name = line.split("'")[1]
                found[name] = {}
            elif "=" in line:
                figure, _, value = line.strip().partition("=")
                if value.lstrip("-").isdigit():
                    found[name][figure] = int(value)
        return found

    def take_all(self, key: str) -> Iterator[bytes]:
        """Takes item after item until the queue is empty."""
        while True:
            self._socket.sendall(f"get {key}\r\n".encode())
            line = self._line()
            if line == "END":
                return
            size = int(line.split()[3])
            item = self._file.read(size + 2)[:size]
            if self._line() != "END":
                raise ValueError("an item without its end")
            yield item

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def _line(self) -> str:
        line = self._file.readline()
        if not line:
            raise ConnectionResetError("the server closed the connection")
        return line.decode("latin-1").rstrip("\r\n")
