"""The smallest HTTP client that can tell where an answer ends, and the job that every measurement uses.

Keep-alive connections, answers with Content-Length only, no retries.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from typing import Any

JOB_BYTES = 200
JOB = b'{"to":"ada@example.org","template":"welcome","text":"'.ljust(JOB_BYTES - 2, b"x") + b'"}'


class LoadError(Exception):
    """The measurement cannot go on: a connection ended or an answer is not the expected one."""


def http_request(method: str, path: str, host: str, body: bytes = b"", *, headers: str = "", jobs: int = 1) -> bytes:
    """A whole request, ready to be written any number of times. jobs: so many bodies, one on each line."""
    kind = "json" if jobs == 1 else "x-ndjson"
    body = b"\n".join([body] * jobs)
    content = f"Content-Type: application/{kind}\r\nContent-Length: {len(body)}\r\n" if method != "GET" else ""
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n{headers}{content}\r\n".encode() + body


def split_address(address: str) -> tuple[str, int]:
    """`127.0.0.1:80` as host and port."""
    host, _, port = address.rpartition(":")
    return host, int(port)


def limit_descriptors() -> None:
    """Allows this process as many open files as the system lets it have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class LoadConnection(asyncio.Protocol):
    """One connection. answered(connection, status, answer): called once an answer is complete."""

    def __init__(self, answered: Callable[[Any, bytes, bytes], None], lost: Callable[[Any], None]) -> None:
        self._answered = answered
        self._lost = lost
        self._rest = b""
        self._closing = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.write = transport.write

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
            self._rest = b""
        while data:
            end = data.find(b"\r\n\r\n") + 4
            if end == 3:
                break
            status = data[9:12]
            if status != b"204":
                start = data.find(b"content-length: ", 0, end)
                if start < 0:
                    raise LoadError(f"an answer without a length: {data[:300]!r}")
                end += int(data[start + 16 : data.index(b"\r", start)])
                if len(data) < end:
                    break
            answer, data = data[:end], data[end:]
            self._answered(self, status, answer)
        self._rest = data

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closing:
            self._lost(self)

    def close(self) -> None:
        """Closes without telling `lost`."""
        self._closing = True
        self._transport.close()
