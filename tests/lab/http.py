"""The smallest HTTP clients that tell how far a request got: a blocking one, and one for an event loop."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import dataclass
from typing import Any

from tests.lab.ports import HOST


@dataclass(frozen=True, slots=True)
class HttpAnswer:
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


class HttpClient:
    """One keep-alive connection, opened when it is needed. Every method raises OSError when it ends too early."""

    def __init__(self, port: int, timeout_s: float) -> None:
        self._port = port
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> HttpAnswer:
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

    def answer(self) -> HttpAnswer:
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
        return HttpAnswer(int(status_line.split()[1]), headers, body)

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


class AsyncHttp:
    """One keep-alive connection: a request at a time, answers with a length."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(
        self, method: str, path: str, body: bytes = b"", headers: str = ""
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in lower case, body."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode()
            + body
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        found = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        content = await reader.readexactly(int(found.get("content-length", "0")))
        if found.get("connection") == "close":
            self.close()
        return int(head[0].split(" ")[1]), found, content

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
