"""The HTTP server on a real port inside a test's own event loop, and clients that speak raw bytes to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import uvloop

from gateway.http.cycle import Handle
from gateway.http.server import GatewayServer
from gateway.settings import Settings
from tests.process.tiny_app import TinyApp

WITHIN_S = 5.0


class Server:
    """The tiny application behind the gateway's HTTP server."""

    def __init__(self, **settings: Any) -> None:
        self.app = TinyApp(Settings(**settings), None)
        self.server = GatewayServer(self.app, Settings(**settings), self.app.buffers, self.app.loop_time)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()

    def serve_with(self, handle: Handle) -> None:
        """From now on new connections are served without ASGI messages."""
        self.server.handle = handle

    @property
    def connections(self) -> list[Any]:
        """The server's ends of its connections."""
        return list(self.server.server_state.connections)

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """A new connection."""
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            yield Client(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def exchange(self, request: bytes) -> bytes:
        """Everything the server answers to these bytes until it closes."""
        async with self.client() as client:
            client.send(request)
            return await client.rest()

    async def counted(self, name: str, value: int) -> None:
        """Waits until the application has counted so far."""
        async with asyncio.timeout(WITHIN_S):
            while self.app.counts.get(name, 0) < value:
                await asyncio.sleep(0.001)


class Client:
    """One raw client connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def pause(self) -> None:
        """Reads nothing more from the socket."""
        transport: Any = self.writer.transport
        transport.pause_reading()

    def send(self, data: bytes) -> None:
        """Sends without waiting."""
        self.writer.write(data)

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        """The next response with a Content-Length or none."""
        async with asyncio.timeout(WITHIN_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status, headers = parse_head(head)
            return status, headers, await self.reader.readexactly(int(headers.get("content-length", "0")))

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        async with asyncio.timeout(WITHIN_S):
            return await self.reader.read()

    async def reset(self) -> None:
        """Closes with RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def parse_head(head: str) -> tuple[int, dict[str, str]]:
    """Status and headers of a response."""
    lines = head.split("\r\n")
    return int(lines[0].split(" ")[1]), {
        name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)
    }


def problem(answer: bytes) -> dict[str, Any]:
    """The problem document of the one answer in these bytes, checked for its form."""
    assert answer.startswith(b"HTTP/1.1 "), answer
    head, _, body = answer.partition(b"\r\n\r\n")
    status, headers = parse_head(head.decode("latin-1"))
    document: dict[str, Any] = json.loads(body)
    assert headers["content-type"] == "application/problem+json"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["connection"] == "close"
    assert int(headers["content-length"]) == len(body)
    assert list(document) == ["type", "title", "status", "detail", "code", "request_id", "retryable"]
    assert document["status"] == status
    assert document["request_id"] == headers["request-id"]
    assert document["type"] == f"urn:kestrel-gateway:problem:{document['code']}"
    return document


def serving(test: Callable[[Server], Awaitable[None]], **settings: Any) -> None:
    """Runs `test` against a server of its own, on the loop the workers use."""

    async def run() -> None:
        server = Server(**settings)
        await server.server.start(server.listener)
        try:
            await test(server)
        finally:
            await server.server.stop()
            assert not server.server.server_state.tasks, "a request outlives the server"

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
