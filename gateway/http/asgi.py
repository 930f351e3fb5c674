"""Runs an ASGI application for a request of the HTTP server: its scope, and the messages that it receives and sends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from gateway.http.cycle import Cycle
from gateway.request import BODILESS, EXTENSION, ClientDisconnected, Headers

AsgiApplication = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI 3 application."""


async def serve(app: AsgiApplication, cycle: Cycle, state: Mapping[str, Any]) -> None:
    """Answers one request. state: the lifespan's; each request gets a copy."""
    server, client = cycle.addresses
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1" if cycle.chunks_known else "1.0",
        "server": server,
        "client": client,
        "scheme": cycle.scheme,
        "method": cycle.method,
        "root_path": "",
        "path": cycle.path,
        "raw_path": cycle.raw_path,
        "query_string": cycle.query,
        "headers": list(cycle.headers),
        "state": dict(state),
        "extensions": {EXTENSION: cycle},
    }
    messages = _Messages(cycle)
    await app(scope, messages.receive, messages.send)


class _Messages:
    """The two ends of the ASGI application."""

    __slots__ = ("_begun", "_cycle")

    def __init__(self, cycle: Cycle) -> None:
        self._cycle = cycle
        self._begun = False

    async def receive(self) -> dict[str, Any]:
        """The body in pieces; `http.disconnect` after the response and when the client is gone."""
        try:
            body, more = await self._cycle.body()
        except ClientDisconnected:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": body, "more_body": more}

    async def send(self, message: Any) -> None:
        """Writes the response, and waits while the client reads too slowly. Does nothing once the client is gone.

        Raises RuntimeError for messages out of order, invalid headers and bodies that violate their Content-Length.
        """
        kind = message["type"]
        if kind == "http.response.body":
            await self._body(message.get("body", b""), last=not message.get("more_body", False))
        elif kind == "http.response.start":
            self._start(message["status"], message.get("headers", ()))
        else:
            raise RuntimeError(f"{kind} is not a message of a response")

    def _start(self, status: int, headers: Headers) -> None:
        cycle = self._cycle
        length: int | None = None
        chunked = closes = False
        others: Headers = []
        for name, value in headers:
            if name == b"content-length":
                length = int(value)
            elif name == b"transfer-encoding":
                chunked = value.lower() == b"chunked"
            else:
                closes = closes or (name == b"connection" and b"close" in value.lower())
                others.append((name, value))
        bodiless = cycle.method == "HEAD" or status in BODILESS
        if length is None and not chunked and not bodiless:
            chunked = cycle.chunks_known
        cycle.start(status, others, length, chunked=chunked, closes=closes)
        self._begun = True

    async def _body(self, body: bytes, *, last: bool) -> None:
        cycle = self._cycle
        if not self._begun:
            raise RuntimeError("http.response.body came before http.response.start")
        if cycle.complete:
            raise RuntimeError("the response is already complete")
        await cycle.write(body, last=last)
