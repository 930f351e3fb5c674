"""One request and its response. Owns the bytes of the response, and reports the client's end.

Reads nothing and has no timer: connection.py, which owns the connection, passes on the body and the client's end. An
application that speaks ASGI uses it through asgi.py.

Invariants
1. Nothing is written before the first bytes of the body, so an application that fails before them is answered with a
   500.
2. After `vanish` nothing is written, and `reached` stays false.
3. A response that starts while the request's body is incomplete closes the connection.
4. A request that waits for its client (it registered a callback, streams, or listens for the disconnect) ends when the
   client closes its side. Another request is answered, because the client may have closed only its sending side.
5. If the body of a request ends early, only the server may answer. If the application streams the body, the
   application answers, and gets no further byte of the body.
"""

from __future__ import annotations

import asyncio
import http
import logging
import re
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Final, Protocol

from gateway.errors import GatewayError, Internal
from gateway.http.flow import Flow
from gateway.http.request_head import RequestHead
from gateway.http.state import ServerState
from gateway.nonce import new_request_id
from gateway.problem import problem_bytes, refusal_headers
from gateway.request import BODILESS, ClientDisconnected, Headers

log = logging.getLogger(__name__)

_PHRASES: Final = {member.value: member.phrase.encode() for member in http.HTTPStatus}
STATUS_LINES: Final = {
    status: b"HTTP/1.1 %d %s\r\n" % (status, _PHRASES.get(status, b"")) for status in range(100, 600)
}
# Source: RFC 9110 section 5.6.2 (token; the names are in lower case) and 5.5 (field-value).
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_CONTROLS: Final = bytes(code for code in (*range(32), 127) if code != ord("\t"))


class CycleConnection(Protocol):
    """What a cycle needs from the connection on which its request came."""

    transport: asyncio.Transport
    flow: Flow
    server_state: ServerState
    server: tuple[str, int | None] | None
    client: tuple[str, int] | None

    def want_body(self, cycle: Cycle) -> None:
        """The application waits for the body: reading continues."""

    def discard_pipelined(self, cycle: Cycle) -> None:
        """The request waits for long, and the end of its client must be detected."""

    def give_up(self, cycle: Cycle) -> None:
        """The response cannot be completed: closes the connection, so that it does not look complete."""

    def response_complete(self, cycle: Cycle) -> None:
        """The response is written."""


class Cycle:
    """Runs the application for one request. Implements gateway.request.HttpRequest."""

    __slots__ = (
        "_bytes_left",
        "_callbacks",
        "_carries",
        "_chunked",
        "_chunks",
        "_connection",
        "_cut",
        "_event",
        "_head",
        "_head_only",
        "_waiting_for_100",
        "_waits",
        "_woken",
        "body_complete",
        "chunks_known",
        "complete",
        "gone",
        "head_bytes",
        "headers",
        "keep_alive",
        "listening",
        "method",
        "names",
        "path",
        "query",
        "raw_path",
        "reached",
        "request_id",
        "scheme",
        "started",
        "streams_body",
        "task",
        "tenant",
        "untaken_bytes",
    )

    def __init__(self, connection: CycleConnection, head: RequestHead, scheme: str) -> None:
        self._connection = connection
        self.task: asyncio.Task[None] | None = None  # that runs it
        self._callbacks: list[Callable[[], None]] | None = None
        # Request
        self.method = head.method
        self.raw_path = head.raw_path
        self.path = head.path
        self.query = head.query
        self.headers = head.headers
        self.names = head.names
        self.scheme = scheme
        self.head_bytes = head.size
        self.request_id = ""
        self.tenant = ""
        self._chunks: list[bytes] = []
        self.untaken_bytes = 0  # of the body, which the application has not received yet
        self._waiting_for_100 = head.continues
        self.body_complete = False
        self.streams_body = False
        self._cut: GatewayError | None = None  # why it has ended early
        self._woken = False  # there is something for `body` to return
        self._event: asyncio.Event | None = None  # set with `_woken`, once `body` waits
        # Response
        self._head: bytes | None = None
        self._head_only = head.method == "HEAD"
        self.chunks_known = head.version != "1.0"
        self._chunked = False
        self._bytes_left: int | None = None  # None: the body ends with the connection
        self.keep_alive = head.keep_alive and self.chunks_known
        self.started = False  # its first bytes are written
        self.complete = False
        # Client
        self._carries = True  # the answer is more than "no job"
        self._waits = False  # the application registered a callback for the client's end
        self.listening = False  # it waits inside `body`
        self.gone = False
        self.reached = False

    @property
    def client(self) -> str:
        """See HttpRequest.client."""
        client = self._connection.client
        return client[0] if client is not None else ""

    @property
    def addresses(self) -> tuple[tuple[str, int | None] | None, tuple[str, int] | None]:
        """The server's address and the client's; None if unknown."""
        return self._connection.server, self._connection.client

    # Called by the connection

    async def run(self, handle: Handle) -> None:
        """Runs the application for the request. Answers 500 if it fails before a byte of the response is written."""
        try:
            await handle(self)
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
            self._callbacks = None
            if self.task is not None:
                self._connection.server_state.tasks.discard(self.task)
                self.task = None

    def add_body(self, data: bytes) -> None:
        """Adds to the request's body. The body of a waiting request is not read."""
        if self._waits:
            return
        self._chunks.append(data)
        self.untaken_bytes += len(data)
        self._wake()

    def end_body(self, error: GatewayError | None = None) -> None:
        """The request's body is complete. error: it has ended early; for an application that streams it."""
        self.body_complete = error is None
        self._cut = error
        self._wake()

    def half_close(self, *, last: bool) -> None:
        """The client sends no more; with `last` no request is behind this one."""
        if self.waits_for_client or not (self.body_complete or self._cut):
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
        # If woken, the application has not yet taken the end of the body.
        return self._waits or self.started or (self.listening and self.body_complete and not self._woken)

    @property
    def is_ours(self) -> bool:
        """Whether no more of the request comes and its answer has not begun: the client waits for the gateway."""
        return (self.body_complete or self._cut is not None) and not self.started

    def vanish(self) -> None:
        """The client is gone, or the server itself answers it. Idempotent; does nothing after the response."""
        if self.gone or self.complete:
            return
        self.gone = True
        self._wake()
        callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
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
        if self._callbacks is None:
            self._callbacks = []
        self._callbacks.append(callback)

        def remove() -> None:
            if self._callbacks is not None and callback in self._callbacks:
                self._callbacks.remove(callback)

        return remove

    # HttpRequest

    async def body(self) -> tuple[bytes, bool]:
        """See HttpRequest.body. After the response, too, it raises ClientDisconnected."""
        connection = self._connection
        if self._waiting_for_100:
            self._waiting_for_100 = False
            if not self.body_complete and not self._chunks and not self.gone and not self.started:
                connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self.gone and not self.complete and self._cut is None:
            connection.want_body(self)
            if not self._woken:
                await self._until_woken()
            self._woken = False
        if self._cut is not None and not self.gone:
            raise self._cut
        if self.gone or self.complete:
            raise ClientDisconnected
        chunks = self._chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.untaken_bytes = 0
        return body, not self.body_complete

    async def respond(self, status: int, headers: Headers, body: bytes, *, length: int | None = None) -> None:
        """See HttpRequest.respond."""
        if self._connection.flow.write_paused and not self.gone:
            await self.drained()
        whole = len(body) if length is None else length
        self.start(status, headers, None if status in BODILESS else whole)
        if self._write(body, last=self._head_only or len(body) == whole) and not await self.drained():
            self.reached = False

    async def write(self, body: bytes, *, last: bool) -> None:
        """See HttpRequest.write."""
        if self._connection.flow.write_paused and not self.gone:
            await self.drained()
        if self._write(body, last=last) and not await self.drained():
            self.reached = False

    async def begin(self, status: int, headers: Headers) -> None:
        """See HttpRequest.begin."""
        if self._connection.flow.write_paused and not self.gone:
            await self.drained()
        self.start(status, headers, chunked=self.chunks_known)
        self._write(b"", last=False)

    async def writable(self) -> None:
        """See HttpRequest.writable."""
        if self._connection.flow.write_paused and not self.gone:
            await self._connection.flow.writable()

    @property
    def unsent_bytes(self) -> int:
        """See HttpRequest.unsent_bytes."""
        return 0 if self.gone else self._connection.transport.get_write_buffer_size()

    def _write(self, body: bytes, *, last: bool) -> bool:
        """Whether the response is complete and must still be sent."""
        if self.gone or self.complete:
            return False
        self.add(body, last=last)
        return self.complete and self._connection.flow.write_paused

    async def drained(self) -> bool:
        """Returns when almost all is sent. False if the client does not read."""
        return await self._connection.flow.drained(self._connection.server_state.limits.body_timeout_s)

    # The bytes of the response

    def start(
        self, status: int, headers: Headers, length: int | None = None, *, chunked: bool = False, closes: bool = False
    ) -> None:
        """Checks and formats the head, which is written with the first bytes of the body.

        length: of the body; chunked: it ends with a chunk of length 0. With neither, it ends with the connection or has
        no bytes. closes: the headers contain `Connection: close`.

        Raises RuntimeError, without a change, if a header is invalid, or if the response has started.
        """
        if self._head is not None or self.started:
            raise RuntimeError("the response has started already")
        state = self._connection.server_state
        lines = [_named(name) + value for name, value in headers]
        fields = b"\r\n".join(lines)
        if lines and len(fields.translate(None, _CONTROLS)) != len(fields) - 2 * (len(lines) - 1):
            raise RuntimeError(f"a header value contains a control character: {headers!r}")
        content = [STATUS_LINES[status], state.date_line, fields, b"\r\n" if lines else b""]
        if closes or not self.body_complete or state.draining:
            self.keep_alive = False
        if length is not None:
            content.append(b"content-length: %d\r\n" % length)
        elif chunked:
            content.append(b"transfer-encoding: chunked\r\n")
        if not closes:
            content.append(state.kept_lines if self.keep_alive else b"connection: close\r\n")
        content.append(b"\r\n")
        bodiless = self._head_only or status in BODILESS
        self._carries = status != 204
        self._chunked = chunked and not bodiless
        self._bytes_left = 0 if bodiless else length
        self._head = b"".join(content)

    def add(self, body: bytes, *, last: bool) -> None:
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
        connection = self._connection
        transport = connection.transport
        if transport.is_closing() or (self.waits_for_client and connection.flow.client_closed(ask=self._carries)):
            connection.give_up(self)
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
            self._wake()
            connection.response_complete(self)

    def _fail(self, detail: str, request_id: str) -> None:
        if self.started or self.gone:
            self._connection.give_up(self)
            return
        error = Internal(detail)
        body = problem_bytes(error, request_id)
        self._head = None
        self.keep_alive = False
        self.start(error.status, refusal_headers(error, request_id), len(body))
        self.add(body, last=True)

    def _wake(self) -> None:
        self._woken = True
        if self._event is not None:
            self._event.set()

    async def _until_woken(self) -> None:
        if self._event is None:
            self._event = asyncio.Event()
        self._event.clear()
        self.listening = True
        if self.body_complete and self._connection.flow.client_closed():
            self._connection.give_up(self)
        await self._event.wait()
        self.listening = False


Handle = Callable[[Cycle], Awaitable[None]]
"""Answers a request."""


def _nothing() -> None:
    """Removes a callback that has already run."""


@lru_cache(maxsize=1024)
def _named(name: bytes) -> bytes:
    """The beginning of a header's line. Raises RuntimeError if the name is invalid."""
    if not _NAME.fullmatch(name):
        raise RuntimeError(f"invalid header name {name!r}")
    return name + b": "
