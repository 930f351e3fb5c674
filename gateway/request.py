"""One HTTP request, and how to answer it: what the HTTP server gives to the application for each request.

A pure interface: no sockets, no server. `http.cycle.Cycle` implements it on a connection of the gateway's own server,
`api.asgi.AsgiRequest` with the messages of any ASGI server.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol, runtime_checkable

Headers = list[tuple[bytes, bytes]]

BODILESS: Final = frozenset({204, 304})
"""Statuses whose answers have no body. Source: RFC 9110, section 6.4.1."""

EXTENSION: Final = "kestrel_gateway.client"
"""Where the ClientConnection is in the `extensions` of an ASGI scope, if the gateway's own server made it."""


class ClientDisconnected(Exception):
    """The client disconnected while its body was read. There is nothing to do and no one to answer."""


class ClientConnection(Protocol):
    """Reports at once that a request's client has disconnected, even while other requests are pipelined behind it."""

    request_id: str
    """Set by the application. The server's own answers to the request carry it too; if it is empty, a new one."""

    tenant: str
    """Set by the application when it answers; empty: unknown. The next request of the connection counts as its."""

    @property
    def head_bytes(self) -> int:
        """The size of the request's head."""

    @property
    def gone(self) -> bool:
        """True once no byte can reach the client: it closed or reset the connection, or the server gave it up."""

    @property
    def reached(self) -> bool:
        """True once the last bytes of the response were handed to an open transport.

        False before that, and permanently if the client was gone or did not read a large response to its end. It is no
        proof of receipt: the bytes may still be lost.
        """

    def on_gone(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls `callback` exactly once when the client is gone; at once if it is already gone.

        Returns a function that removes the callback; calling it late or twice does nothing. Callbacks run on the event
        loop, must not block and must not raise. No callback runs after the response is complete.
        """


class HttpRequest(ClientConnection, Protocol):
    """A request whose head is complete.

    path: decoded; the application may remove a prefix from it. raw_path, query: as received. headers: names in lower
    case, values without white space around them. names: of the headers. scheme: http or https.
    """

    @property
    def client(self) -> str:
        """The client's address; empty if it is unknown, as on a Unix socket."""

    method: str
    path: str
    raw_path: bytes
    query: bytes
    headers: Headers
    names: set[bytes]
    scheme: str
    streams_body: bool
    """Set by an application that processes the body as it arrives, and that answers if the body ends early.

    `body` then raises why it ended: RequestTimeout, BadFraming or Draining. The time limit of a body becomes one
    between two pieces of it. With an ASGI server `body` raises ClientDisconnected in this case, too.
    """

    async def body(self) -> tuple[bytes, bool]:
        """The next bytes of the request's body, and whether more may follow. Raises ClientDisconnected."""

    async def respond(self, status: int, headers: Headers, body: bytes, *, length: int | None = None) -> None:
        """Writes the head and the body in one piece.

        headers: without those that frame the body. length: of the whole body, if `body` is only its beginning; `write`
        follows.

        Waits while the client reads too slowly. Does nothing once the client is gone. Raises RuntimeError if a header
        is invalid; then nothing is written.
        """

    async def write(self, body: bytes, *, last: bool) -> None:
        """Writes further bytes of the body. Waits, and does nothing, like `respond`."""

    async def begin(self, status: int, headers: Headers) -> None:
        """Writes the head of a response whose length is not known; `write` follows. See `respond`."""

    async def writable(self) -> None:
        """Returns when the client has read almost all that was written, however long that takes, or is gone."""

    @property
    def unsent_bytes(self) -> int:
        """The bytes that were written and are not yet with the kernel, as far as the server knows."""


@runtime_checkable
class RequestApplication(Protocol):
    """An application that answers requests without ASGI messages."""

    def handle(self, request: HttpRequest) -> Coroutine[Any, Any, None]:
        """Answers the request."""
