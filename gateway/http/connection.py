"""One client connection of the HTTP server: reads requests one after the other, and detects at once that a client left.

Owns the connection's state, its deadlines and every answer that the server makes itself. Knows no routes, queues or
leases.

Invariants
1. The parser gets one message at a time; bytes behind it are held, unparsed, until its response is complete.
2. While a response is pending the socket is read, so FIN and RST are detected at once. Up to HELD_BYTES are held.
   Behind a request that waits for long, up to DISCARD_BYTES more are discarded, and its response is the connection's
   last. While reading is paused, the kernel is asked for the client's state every WATCH_S and before a response is
   written.
3. A cycle that is not complete is informed of the connection's end exactly once.
4. Every answer that the server makes itself is a problem document with `Connection: close`. After a connection's last
   answer the server reads for a moment, so that the client can read the answer.
5. Answers leave in the order of their requests; a malformed request is answered after those before it. Bytes that
   follow a POST without an announced body in the same read, and are no request, are its body: the request is refused
   and not run.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import math
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, cast

import httptools

from gateway.client_connection import EXTENSION
from gateway.common.states import check_move
from gateway.errors import BadFraming, GatewayError, RequestTimeout, Unavailable
from gateway.http import tcp
from gateway.http.cycle import STATUS_LINES, Cycle
from gateway.http.flow import Flow
from gateway.http.framing import begins_request
from gateway.http.request_parser import RequestHead, RequestParser
from gateway.http.state import ServerState, new_request_id
from gateway.problem import problem_bytes, problem_headers

log = logging.getLogger(__name__)

Application = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI 3 application."""

HELD_BYTES: Final = 65536  # held behind a pending response
DISCARD_BYTES: Final = 4 << 20  # read behind a request that waits for long
BODY_HIGH_WATER: Final = 65536  # of a body that the application has not yet taken
UNSENT_BYTES: Final = 8192  # of a response that counts as sent
READ_BYTES: Final = 65536
WATCH_S: Final = 1.0
IDLE_MARGIN_S: Final = 1.0  # beyond the announced time: a request at its last moment is still served
LINGER_S: Final = 2.0  # for a client to read the last answer before unread bytes reset the connection (RFC 9112, 9.6)
CHUNKS_A_TURN: Final = 2000  # of a body, in one turn of the loop: at most 3 ms
LINGER_BYTES: Final = 32 << 20  # many clients send a whole body before they read an answer


class Reading(enum.IntEnum):
    """What the connection's next bytes are."""

    IDLE = 0  # the start of a request
    HEAD = 1  # the rest of a head
    BODY = 2  # the rest of a body
    PENDING = 3  # held until the response is complete
    DISCARDING = 4  # discarded: the response in progress is the last
    LINGERING = 5  # discarded: the last answer is written
    CLOSED = 6


IDLE, HEAD, BODY, PENDING, DISCARDING, LINGERING, CLOSED = Reading  # looked up several times a request

MOVES: Final = {
    IDLE: frozenset({HEAD, BODY, PENDING, LINGERING, CLOSED}),
    HEAD: frozenset({BODY, PENDING, LINGERING, CLOSED}),
    BODY: frozenset({PENDING, LINGERING, CLOSED}),
    PENDING: frozenset({IDLE, DISCARDING, LINGERING, CLOSED}),
    DISCARDING: frozenset({LINGERING, CLOSED}),
    LINGERING: frozenset({CLOSED}),
    CLOSED: frozenset(),
}


class GatewayProtocol(asyncio.Protocol):
    """One client's connection, with limits, deadlines, problem documents, and detection of clients that disconnect.

    app: run for each request. app_state: what the application put into its lifespan's state; each request gets a copy.
    """

    def __init__(self, app: Application, server_state: ServerState, app_state: Mapping[str, Any], scheme: str) -> None:
        # Process
        self.app = app
        self.app_state = app_state
        self.scheme = scheme
        self.server_state = server_state
        self.limits = server_state.limits
        self.loop = asyncio.get_running_loop()

        # Connection
        self.transport: asyncio.Transport
        self.flow: Flow
        self.server: tuple[str, int | None] | None = None
        self.client: tuple[str, int] | None = None
        self._parser = RequestParser(self, self.limits.header_bytes)
        self.reading = IDLE
        self._held = bytearray()
        self._ended = False  # the client has closed its sending side
        self._cut_off = False  # it ended before all was sent
        self._discarded_bytes = 0
        self._deadline = math.inf  # loop time at which the current state times out
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._watch: asyncio.TimerHandle | None = None

        # Request
        self.current: Cycle | None = None
        self._task: asyncio.Task[None] | None = None
        self._counted_bytes = 0  # of requests without a known tenant, as Idle counts them
        self._body_untaken = 0
        self._reading_on: asyncio.Handle | None = None

    # The connection begins and ends

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=UNSENT_BYTES)
        self.flow = Flow(self.transport)
        self.server, self.client = tcp.addresses(transport.get_extra_info("socket"))
        connections = self.server_state.connections
        connections.add(self)
        idle = self.server_state.idle
        if len(connections) > self.limits.connections and not idle.close_oldest():
            self.refuse(Unavailable(f"the gateway has reached its limit of {self.limits.connections} connections"))
        else:
            self._set_deadline(self.limits.header_timeout_s)
            idle.add(self)

    def eof_received(self) -> bool:
        """The client closed its sending side: it gets the answers to its complete requests, but its polls end."""
        self._ended = True
        if self.current is None:
            return False
        self.current.half_close(last=not self._held)
        if self.current.gone:
            self._vanished()
            return False
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        self.server_state.one_closed(self)
        self._cut_off = self.flow.write_paused
        self._vanished()
        self._move(CLOSED)
        self.flow.resume_writing()
        for handle in (self._timer, self._watch):
            if handle is not None:
                handle.cancel()
        self._timer = self._watch = None
        self._held.clear()
        self._hold_bytes(0)
        self._parser.close()  # it refers back to us

    def _vanished(self) -> None:
        if self.current is not None:
            self.current.vanish()
            self.current = None
            self.flow.resume_writing()  # no one waits for a reader that is gone

    def _move(self, to: Reading) -> None:
        check_move("a connection", MOVES, self.reading, to)
        self.reading = to

    # Bytes come in

    def data_received(self, data: bytes) -> None:
        if self.reading is PENDING:
            self._hold(data)
        elif self.reading is BODY and self._held:
            self._held += data
        elif self.reading is DISCARDING:
            self._discarded_bytes += len(data)
            if self._discarded_bytes > DISCARD_BYTES:
                self._pause()
        elif self.reading is LINGERING:
            self._discard(len(data))
        elif self.reading is not CLOSED:
            self._read(data)

    def _read(self, data: bytes) -> None:
        """Feeds the parser up to the end of one message and holds the rest.

        Of a body in many small chunks it also holds the rest until the application asks for more.
        """
        before, chunks = self.reading, self._parser.chunks if self.reading is BODY else 0
        while data and self.reading <= BODY:
            try:
                taken = self._parser.feed(data)
            except GatewayError as error:
                self.refuse(error)
                break
            data = data[taken:] if taken < len(data) else b""
            if self.reading is IDLE and self._parser.begun:
                self._move(HEAD)
            elif data and self.reading is BODY and self._parser.chunks - chunks > CHUNKS_A_TURN:
                self._held += data
                self._pause()
                break
        now = self.reading
        if now is not before:
            if now is PENDING:
                self._deadline = math.inf
            elif now is HEAD:
                self._set_deadline(self.limits.header_timeout_s)
            elif now is BODY:
                self._set_deadline(self.limits.body_timeout_s)
        if data and now is PENDING:
            if self._parser.bodyless_post and not begins_request(data):
                assert self._task is not None
                self._task.cancel()  # started in this turn of the loop, so it has not run
                self.refuse(BadFraming("the body has neither a Content-Length nor Transfer-Encoding: chunked"))
            else:
                self._hold(data)
        elif now is HEAD or self._counted_bytes:
            self._hold_bytes(self._parser.head_bytes if now is HEAD else 0)

    def _hold(self, data: bytes) -> None:
        self._held += data
        if not self._hold_bytes(len(self._held)) or len(self._held) > HELD_BYTES:
            self._pause()
            if self.current is not None and self.current.parked:
                self.watch_closely(self.current)

    def _hold_bytes(self, count: int) -> bool:
        """Counts bytes of requests without a known tenant. Returns whether there is room for them."""
        if count == self._counted_bytes == 0:
            return True
        change, self._counted_bytes = count - self._counted_bytes, count
        return self.server_state.idle.hold(self, change, head=self.reading is HEAD and count > 0)

    # Called by the parser

    def on_request(self, head: RequestHead) -> None:
        """A head is complete: its request starts."""
        cycle = Cycle(
            self,
            head_only=head.method == "HEAD",
            version=head.version,
            keep_alive=head.keep_alive,
            continues=head.continues,
            head_bytes=head.size,
        )
        self.server_state.idle.remove(self)
        scope = self._scope(head, cycle)
        self.current = cycle
        self._body_untaken = 0
        self._move(BODY)
        self._task = self.loop.create_task(cycle.run(self.app, scope))
        self.server_state.tasks.add(self._task)
        self._task.add_done_callback(self.server_state.tasks.discard)

    def _scope(self, head: RequestHead, cycle: Cycle) -> dict[str, Any]:
        target = head.target
        if target.startswith(b"/"):
            raw_path, _, query = target.partition(b"?")
        else:
            parsed = httptools.parse_url(target)
            raw_path, query = parsed.path or b"/", parsed.query or b""
        path = raw_path.decode("ascii")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": head.version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "method": head.method,
            "root_path": "",
            "path": urllib.parse.unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": head.headers,
            "state": dict(self.app_state),
            "extensions": {EXTENSION: cycle},
        }

    def on_request_body(self, body: bytes) -> None:
        """More of the body."""
        self._body_untaken += len(body)
        if self.current is not None:
            self.current.add_body(body)
        if self._body_untaken > BODY_HIGH_WATER:
            self._pause()

    def on_request_end(self) -> None:
        """The request is complete."""
        self._move(PENDING)
        self._resume()  # a large body may have paused it
        if self.current is not None:
            self.current.end_body()

    # Called by the cycle

    def want_body(self) -> None:
        """The application waits for the body: reading continues."""
        if self.reading is not BODY:
            return
        if not self._held:
            self._resume()
        elif not self._body_untaken and self._reading_on is None:
            self._reading_on = self.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        """Reads more of a body in small chunks, which is held."""
        self._reading_on = None
        if self.reading is BODY and self._held:
            held, self._held = bytes(self._held), bytearray()
            self._read(held)
            if self._ended:
                self._read_last()

    def body_taken(self) -> None:
        """The application has taken the body received so far."""
        self._body_untaken = 0

    def response_complete(self, cycle: Cycle) -> None:
        """The response is written: the next request begins, or the connection ends."""
        self.server_state.one_answered()
        self.current = None
        if self.transport.is_closing():
            return
        if not cycle.keep_alive:
            self._linger()
            return
        self._move(IDLE)
        self._resume()
        if self._held:
            held, self._held = bytes(self._held), bytearray()
            self.server_state.idle.add(self)
            self._read(held)
            if self._ended:
                self._read_last()
        else:
            self._set_deadline(self.limits.keep_alive_s + IDLE_MARGIN_S)
            self.server_state.idle.add(self)

    def _read_last(self) -> None:
        """Reads what the client sent before it closed its side; an incomplete request is never completed."""
        if self.reading is BODY and self._held:
            return  # `_read_on` reads the rest
        if self.current is not None:
            self.current.half_close(last=not self._held)
            if not self.current.gone:
                return
            self._vanished()
        self.transport.close()

    def watch_closely(self, cycle: Cycle) -> None:
        """The request waits for long: bytes behind it that exceed the limit are discarded, because unread bytes would
        hide the client's end."""
        if self.current is cycle and self.reading is PENDING and len(self._held) > HELD_BYTES:
            self._move(DISCARDING)
            cycle.keep_alive = False
            self._held.clear()
            self._hold_bytes(0)
            self._resume()

    def give_up(self, cycle: Cycle) -> None:
        """The response cannot be completed: closes the connection, so that it does not look complete."""
        cycle.vanish()
        if self.current is cycle:
            self.current = None
            self.transport.close()

    async def drained(self) -> bool:
        """Returns when almost all bytes of the responses are sent. False if the client did not read them.

        The client must read READ_BYTES within the time limit for a body.
        """
        transport = self.transport
        while self.flow.write_paused:
            before = transport.get_write_buffer_size()
            try:
                async with asyncio.timeout(self.limits.body_timeout_s):
                    await self.flow.drain()
            except TimeoutError:
                if before - transport.get_write_buffer_size() < READ_BYTES:
                    transport.abort()
                    return False
        return not self._cut_off

    # Answers of the server itself

    def refuse(self, error: GatewayError) -> None:
        """Answers with a problem document instead of the application and closes; a started response is only cut off."""
        begun = self.current is not None and self.current.started
        self._vanished()
        if self.transport.is_closing():
            return
        request_id = new_request_id()
        fields = {"request_id": request_id, "status": error.status, "code": error.code, "client": self.client}
        log.info("refused: %s", error.detail, extra={"fields": fields})
        if begun:
            self.server_state.idle.add(self)
            self.transport.close()
            return
        body = problem_bytes(error, request_id)
        lines = [b"%b: %b\r\n" % header for header in problem_headers(error, body)]
        head = [STATUS_LINES[error.status], self.server_state.date_line, *lines]
        head.append(b"request-id: %b\r\nconnection: close\r\n\r\n" % request_id.encode())
        self.transport.write(b"".join([*head, body]))
        self._linger()

    def _linger(self) -> None:
        """Closes the sending side and reads for a moment: a reset could come before the client has read the answer."""
        complete = self.reading is PENDING and not self._held
        self._move(LINGERING)
        self._held.clear()
        self._hold_bytes(0)
        self.server_state.idle.add(self)
        self._discarded_bytes = 0
        halves = self.transport.can_write_eof()  # TLS cannot close one side
        if self._ended or (complete and not halves):
            self.transport.close()
            return
        self._resume()
        if halves:
            self.transport.write_eof()
        self._set_deadline(LINGER_S)

    def _discard(self, count: int) -> None:
        self._discarded_bytes += count
        if self._discarded_bytes > LINGER_BYTES:
            self.transport.close()
        elif self._discarded_bytes > READ_BYTES:
            self.flow.pause_reading()
            self.loop.call_later(self.server_state.discard(count, self.loop.time()), self._discard_more)

    def _discard_more(self) -> None:
        if self.reading is LINGERING and not self.transport.is_closing():
            self.flow.resume_reading()

    def shutdown(self) -> None:
        """The server stops: an idle connection closes; a pending response is the connection's last."""
        if self.current is None:
            if self.reading is not LINGERING:
                self.transport.close()
        else:
            self.current.keep_alive = False

    # Time

    def _set_deadline(self, seconds: float) -> None:
        """Limits the current state to `seconds`. One timer per connection, moved only if it would fire too late."""
        self._deadline = self.loop.time() + seconds
        if self._timer is None or self._deadline < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = self._deadline
            self._timer = self.loop.call_later(seconds, self._rings)

    def _rings(self) -> None:
        self._timer = None
        if self._deadline is math.inf:
            return
        left_s = self._deadline - self.loop.time()
        if left_s > 0.001:
            self._set_deadline(left_s)
        elif self.reading is HEAD:
            self.refuse(RequestTimeout(f"the header block was not complete in {self.limits.header_timeout_s:g} s"))
        elif self.reading is BODY:
            self.refuse(RequestTimeout(f"the body was not complete in {self.limits.body_timeout_s:g} s"))
        else:
            self.transport.close()

    # Flow

    def pause_writing(self) -> None:
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        self.flow.resume_writing()

    def client_closed(self, *, ask: bool = False) -> bool:
        """Whether the client has closed its side. Asks the kernel with `ask`, and while reading is paused."""
        if self._ended or self.transport.is_closing():
            return True
        return (ask or self.flow.read_paused) and tcp.peer_closed(self.transport.get_extra_info("socket"))

    def _pause(self) -> None:
        """Stops reading; from now on the kernel is asked for the client's state."""
        if self._ended:
            return
        self.flow.pause_reading()
        if self._watch is None:
            self._watch = self.loop.call_later(WATCH_S, self._look)

    def _resume(self) -> None:
        self.flow.resume_reading()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _look(self) -> None:
        self._watch = None
        if tcp.peer_closed(self.transport.get_extra_info("socket")):
            self._vanished()
            self.transport.abort()
        else:
            self._watch = self.loop.call_later(WATCH_S, self._look)
