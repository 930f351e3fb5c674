"""A request that comes as ASGI messages, from any ASGI server. The gateway's own server does not use it.

An ASGI server reports that the client has disconnected only to an application that waits for its next message. So a
task waits for it while a request is in progress. An answer counts as received unless the server had reported a
disconnect before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from starlette.types import Receive, Scope, Send

from gateway.request import BODILESS, ClientDisconnected, Headers

log = logging.getLogger(__name__)


class AsgiRequest:
    """Implements gateway.request.HttpRequest. `close` must be called in the end."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._callbacks: list[Callable[[], None]] = []
        self._listening: asyncio.Task[None] | None = None
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.raw_path: bytes = scope["raw_path"].partition(b"?")[0]
        self.query: bytes = scope["query_string"]
        self.headers: Headers = [(name.lower(), value.strip(b" \t")) for name, value in scope["headers"]]
        self.names = {name for name, _ in self.headers}
        self.scheme: str = scope["scheme"]
        self.client: str = client[0] if (client := scope.get("client")) else ""
        self.head_bytes = sum(len(name) + len(value) for name, value in self.headers)
        self.streams_body = False
        self.request_id = ""
        self.tenant = ""
        self.gone = False
        self.reached = False
        self.unsent_bytes = 0
        """See HttpRequest.unsent_bytes."""

    def on_gone(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See ClientConnection.on_gone. The body is no longer read."""
        if self.gone:
            callback()
            return _nothing
        self._callbacks.append(callback)
        if self._listening is None:
            self._listening = asyncio.get_running_loop().create_task(self._listen())

        def remove() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return remove

    async def body(self) -> tuple[bytes, bool]:
        """See HttpRequest.body."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._vanish()
            raise ClientDisconnected
        return message.get("body", b""), message.get("more_body", False)

    async def respond(self, status: int, headers: Headers, body: bytes, *, length: int | None = None) -> None:
        """See HttpRequest.respond."""
        if self.gone:
            return
        whole = len(body) if length is None else length
        framing = [] if status in BODILESS else [(b"content-length", b"%d" % whole)]
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *framing]})
        await self.write(body, last=len(body) == whole)

    async def begin(self, status: int, headers: Headers) -> None:
        """See HttpRequest.begin."""
        if not self.gone:
            await self._send({"type": "http.response.start", "status": status, "headers": list(headers)})
            await self.write(b"", last=False)

    async def writable(self) -> None:
        """See HttpRequest.writable. ASGI does not say: `write` waits instead."""

    async def write(self, body: bytes, *, last: bool) -> None:
        """See HttpRequest.write."""
        if self.gone:
            return
        self.unsent_bytes = len(body)
        await self._send({"type": "http.response.body", "body": body, "more_body": not last})
        self.unsent_bytes = 0
        self.reached = last and not self.gone

    def close(self) -> None:
        """The request has ended."""
        self._callbacks.clear()
        if self._listening is not None:
            self._listening.cancel()

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self.reached:
            self._vanish()

    def _vanish(self) -> None:
        self.gone = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            try:
                callback()
            except Exception:
                log.exception("a callback for a disconnected client failed")


def _nothing() -> None:
    """Removes a callback that has already run."""
