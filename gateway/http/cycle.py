"""One request and its response: the ASGI side. Owns the bytes of the response, and reports the client's end.

Reads nothing and has no timer: connection.py, which owns the connection, passes on the body and the client's end.

Invariants
1. Nothing is written before the first body message, so an application that fails before it is answered with a 500.
2. After `vanish` nothing is written, and `reached` stays false.
3. A response that starts while the request's body is incomplete closes the connection.
4. A request that waits for its client (it registered a callback, streams, or listens for the disconnect) ends when the
   client closes its side. Another request is answered, because the client may have closed only its sending side.
"""

from __future__ import annotations

import asyncio
import http
import logging
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, Protocol

from gateway.errors import Internal
from gateway.http.flow import Flow
from gateway.http.state import ServerState, new_request_id
from gateway.problem import problem_bytes, problem_headers

log = logging.getLogger(__name__)

_PHRASES: Final = {member.value: member.phrase.encode() for member in http.HTTPStatus}
STATUS_LINES: Final = {
    status: b"HTTP/1.1 %d %s\r\n" % (status, _PHRASES.get(status, b"")) for status in range(100, 600)
}
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding", b"connection"})
# Source: RFC 9110 section 5.6.2 (token; ASGI has names in lower case) and 5.5 (field-value).
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_BAD_VALUE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class CycleConnection(Protocol):
    """What a cycle needs from the connection on which its request came."""

    transport: asyncio.Transport
    flow: Flow
    server_state: ServerState

    def want_body(self, cycle: Cycle) -> None:
        """The application waits for the body: reading continues."""

    def discard_pipelined(self, cycle: Cycle) -> None:
        """The request waits for long, and the end of its client must be detected."""

    def give_up(self, cycle: Cycle) -> None:
        """The response cannot be completed: closes the connection, so that it does not look complete."""

    def response_complete(self, cycle: Cycle) -> None:
        """The response is written."""


class Cycle:
    """Runs the application for one request. Implements gateway.client_connection.ClientConnection."""

    __slots__ = (
        "_bytes_left",
        "_callbacks",
        "_carries",
        "_chunked",
        "_chunks",
        "_chunks_known",
        "_connection",
        "_head",
        "_head_only",
        "_listening",
        "_waiting_for_100",
        "_waits",
        "_wake",
        "body_complete",
        "complete",
        "gone",
        "head_bytes",
        "keep_alive",
        "reached",
        "request_id",
        "started",
        "tenant",
        "untaken_bytes",
    )

    def __init__(
        self,
        connection: CycleConnection,
        *,
        head_only: bool,
        version: str,
        keep_alive: bool,
        continues: bool,
        head_bytes: int,
    ) -> None:
        self._connection = connection
        self.head_bytes = head_bytes
        self.request_id = ""
        self.tenant = ""
        self._head_only = head_only
        self._wake = asyncio.Event()
        self._callbacks: list[Callable[[], None]] = []
        # Request
        self._chunks: list[bytes] = []
        self.untaken_bytes = 0  # of the body, which the application has not received yet
        self._waiting_for_100 = continues
        self.body_complete = False
        # Response
        self._head: bytes | None = None
        self._chunks_known = version != "1.0"
        self._chunked = False
        self._bytes_left: int | None = None  # None: the body ends with the connection
        self.keep_alive = keep_alive and self._chunks_known
        self.started = False  # its first bytes are written
        self.complete = False
        # Client
        self._carries = True  # the answer is more than "no job"
        self._waits = False  # the application registered a callback for the client's end
        self._listening = False  # it is inside `receive`
        self.gone = False
        self.reached = False

    # Called by the connection

    def add_body(self, data: bytes) -> None:
        """Adds to the request's body. The body of a waiting request is not read."""
        if self._waits:
            return
        self._chunks.append(data)
        self.untaken_bytes += len(data)
        self._wake.set()

    def end_body(self) -> None:
        """The request's body is complete."""
        self.body_complete = True
        self._wake.set()

    def half_close(self, *, last: bool) -> None:
        """The client sends no more; with `last` no request is behind this one."""
        if self.waits_for_client or not self.body_complete:
            self.vanish()
        elif last:
            self.keep_alive = False

    @property
    def waiting(self) -> bool:
        """Whether the application registered a callback for the client's end."""
        return self._waits

    @property
    def waits_for_client(self) -> bool:
        """Whether the response is useless to a client that has closed its side."""
        # With `_wake` set, the application has not yet taken the end of the body.
        return self._waits or self.started or (self._listening and self.body_complete and not self._wake.is_set())

    @property
    def is_ours(self) -> bool:
        """Whether the request is complete and its answer has not begun: the client waits for the gateway."""
        return self.body_complete and not self.started

    def vanish(self) -> None:
        """The client is gone, or the server itself answers it. Idempotent; does nothing after the response."""
        if self.gone or self.complete:
            return
        self.gone = True
        self._wake.set()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            try:
                callback()
            except Exception:
                log.exception("a callback for a disconnected client failed")

    # ClientConnection

    def on_gone(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See ClientConnection.on_gone."""
        self._waits = True
        self._chunks.clear()
        self.untaken_bytes = 0
        if self._connection.flow.client_closed():
            self._connection.give_up(self)
        else:
            self._connection.discard_pipelined(self)
        if self.gone:
            callback()
            return _nothing
        self._callbacks.append(callback)

        def remove() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return remove

    # ASGI

    async def run(self, app: Any, scope: Any) -> None:
        """Runs the application to its end. Answers 500 if it fails before a byte of the response is written."""
        try:
            await app(scope, self.receive, self.send)
        except asyncio.CancelledError:
            self._connection.give_up(self)
            raise
        except Exception as exc:
            if self.gone:  # applications end this way when their client disconnects
                log.debug("ended after the client disconnected: %r", exc)
                return
            request_id = self.request_id or new_request_id()
            log.exception("the application failed", extra={"fields": {"request_id": request_id}})
            self._fail("the gateway failed; its log has the cause under this request id", request_id)
        else:
            if not self.complete and not self.gone:
                request_id = self.request_id or new_request_id()
                log.error("the application ended without a response", extra={"fields": {"request_id": request_id}})
                self._fail("the gateway gave no answer; its log has the cause under this request id", request_id)
        finally:
            self._callbacks.clear()

    def _fail(self, detail: str, request_id: str) -> None:
        if self.started or self.gone:
            self._connection.give_up(self)
            return
        error = Internal(detail)
        body = problem_bytes(error, request_id)
        ids = [(b"request-id", request_id.encode()), (b"connection", b"close")]
        self._start(error.status, [*problem_headers(error, body), *ids])
        self._body(body, last=True)

    async def receive(self) -> dict[str, Any]:
        """The ASGI receive: the body in pieces; `http.disconnect` after the response and when the client is gone."""
        connection = self._connection
        if self._waiting_for_100:
            self._waiting_for_100 = False
            if not self.body_complete and not self._chunks and not self.gone and not self.started:
                connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self.gone and not self.complete:
            connection.want_body(self)
            self._listening = not self._wake.is_set()
            if self._listening and self.body_complete and connection.flow.client_closed():
                connection.give_up(self)
            await self._wake.wait()
            self._wake.clear()
            self._listening = False
        if self.gone or self.complete:
            return {"type": "http.disconnect"}
        chunks = self._chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.untaken_bytes = 0
        return {"type": "http.request", "body": body, "more_body": not self.body_complete}

    async def send(self, message: Any) -> None:
        """The ASGI send. Waits while the client reads too slowly, also for the last bytes of a large response. Does
        nothing once the client is gone.

        Raises RuntimeError for messages out of order, invalid headers and bodies that violate their Content-Length.
        """
        kind = message["type"]
        if kind == "http.response.body":
            flow = self._connection.flow
            if flow.write_paused and not self.gone:
                await self._drained()
            if self._head is None and not self.started:
                raise RuntimeError("http.response.body came before http.response.start")
            if self.complete:
                raise RuntimeError("the response is already complete")
            if not self.gone:
                self._body(message.get("body", b""), last=not message.get("more_body", False))
                if self.complete and flow.write_paused and not await self._drained():
                    self.reached = False
        elif kind == "http.response.start":
            if self._head is not None or self.started:
                raise RuntimeError("http.response.start came twice")
            self._start(message["status"], message.get("headers", ()))
        else:
            raise RuntimeError(f"{kind} is not a message of a response")

    async def _drained(self) -> bool:
        return await self._connection.flow.drained(self._connection.server_state.limits.body_timeout_s)

    def _start(self, status: int, headers: Any) -> None:
        """Checks and formats the head. Raises RuntimeError, without a change, if a header is invalid."""
        content = [STATUS_LINES[status], self._connection.server_state.date_line]
        values: list[bytes] = []
        length: int | None = None
        chunked = closes = False
        for name, value in headers:
            if not _is_name(name):
                raise RuntimeError(f"invalid header name {name!r}")
            if name in _FRAMING:
                if name == b"content-length":
                    length = int(value)
                elif name == b"transfer-encoding":
                    chunked = value.lower() == b"chunked"
                else:
                    closes = b"close" in value.lower()
            values.append(value)
            content += (name, b": ", value, b"\r\n")
        if _BAD_VALUE.search(b" ".join(values)):
            raise RuntimeError(f"a header value contains a control character: {values!r}")
        if closes or not self.body_complete or self._connection.server_state.draining:
            self.keep_alive = False
        if self.keep_alive:
            content.append(self._connection.server_state.kept_lines)
        elif not closes:
            content.append(b"connection: close\r\n")
        bodyless = self._head_only or status in (204, 304)
        self._carries = status != 204
        if length is None and not chunked and not bodyless and self._chunks_known:
            content.append(b"transfer-encoding: chunked\r\n")
            chunked = True
        content.append(b"\r\n")
        self._chunked = chunked and not bodyless
        self._bytes_left = 0 if bodyless else length
        self._head = b"".join(content)

    def _body(self, body: bytes, *, last: bool) -> None:
        """Writes one piece of the body, with the head before the first."""
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if last:
                data += b"0\r\n\r\n"
        elif self._head_only:
            data = b""
        else:
            if self._bytes_left is not None:
                self._bytes_left -= len(body)
                if self._bytes_left < 0 or (last and self._bytes_left):
                    raise RuntimeError("the response's body does not have its Content-Length")
            data = body
        transport = self._connection.transport
        if transport.is_closing() or (self.waits_for_client and self._connection.flow.client_closed(ask=self._carries)):
            self._connection.give_up(self)
            return
        if self._head is not None:
            head, self._head = self._head, None
            self.started = True
            self._waiting_for_100 = False
            transport.write(head + data if len(data) < 65536 else head)
            if len(data) >= 65536:
                transport.write(data)
        elif data:
            transport.write(data)
        if last:
            self.complete = self.reached = True
            self._wake.set()
            self._connection.response_complete(self)


def _nothing() -> None:
    """Removes a callback that has already run."""


@lru_cache(maxsize=1024)
def _is_name(name: bytes) -> bool:
    return _NAME.fullmatch(name) is not None
