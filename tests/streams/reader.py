"""A client of a stream: reads its lines, NDJSON or server-sent events."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from typing import Any, Self

from tests.lab.gateway import Running

READ_S = 30


class StreamReader:
    """One stream. head: the answer's. rcvbuf: the size of its receive buffer in bytes, 0: as ever.

    refused: the problem, if there is no stream. Use as a context manager.
    """

    def __init__(self, gateway: Running, path: str, *, rcvbuf: int = 0, port: int = 0, **headers: str) -> None:
        address = ("127.0.0.1", port or gateway.port)
        if gateway.url.startswith("https"):
            trust = ssl._create_unverified_context()
            self.connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                *address, timeout=READ_S, context=trust
            )
        else:
            self.connection = http.client.HTTPConnection(*address, timeout=READ_S)
        if rcvbuf:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
            sock.settimeout(READ_S)
            sock.connect(address)
            self.connection.sock = sock
        self.connection.request("GET", path, headers={name.replace("_", "-"): each for name, each in headers.items()})
        self.head = self.connection.getresponse()
        self.events = self.head.headers["content-type"] == "text/event-stream"
        self.refused: dict[str, Any] = json.loads(self.head.read()) if self.head.status != 200 else {}

    def line(self) -> dict[str, Any]:
        """The next line. Raises EOFError at the end of the answer; OSError, http.client.HTTPException if it is cut."""
        if not self.events:
            line = self.head.readline()
            if not line:
                raise EOFError
            return json.loads(line)
        name = self.head.readline()
        if not name:
            raise EOFError
        content = json.loads(self.head.readline().removeprefix(b"data: "))
        assert name == b"event: %b\n" % content["type"].encode()
        assert self.head.readline() == b"\n"
        return content

    def next(self, kind: str = "job") -> dict[str, Any]:
        """The next line of that type; keepalive lines before it are skipped."""
        while (line := self.line())["type"] == "keepalive" != kind:
            pass
        assert line["type"] == kind, line
        return line

    def jobs(self, count: int) -> list[dict[str, Any]]:
        return [self.next() for _ in range(count)]

    def close(self) -> None:
        self.head.close()
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
