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
from gateway.errors import BadFraming, GatewayError, HeadersTooLarge, Internal, RequestTimeout, Unavailable
from gateway.http import tcp
from gateway.http.cycle import STATUS_LINES, Cycle
from gateway.http.flow import Flow
from gateway.http.framing import CHUNKED, FRAMING_HEADERS, OWS, BlankLine, begins_request, framing
from gateway.http.state import ServerState, new_request_id
from gateway.problem import problem_bytes, problem_headers

log = logging.getLogger(__name__)

Application = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI 3 application."""

MAX_HEADERS: Final = 250  # each is read several times; an event has at most 100 attributes
HELD_BYTES: Final = 65536  # held behind a pending response
DISCARD_BYTES: Final = 4 << 20  # read behind a request that waits for long
BODY_HIGH_WATER: Final = 65536  # of a body that the application has not yet taken
UNSENT_BYTES: Final = 8192  # of a response that counts as sent
READ_BYTES: Final = 65536
WATCH_S: Final = 1.0
IDLE_MARGIN_S: Final = 1.0  # beyond the announced time: a request at its last moment is still served
LINGER_S: Final = 2.0  # for a client to read the last answer before unread bytes reset the connection (RFC 9112, 9.6)
LINGER_BYTES: Final = 32 << 20  # many clients send a whole body before they read an answer
_WITH_BODY: Final = frozenset({b"POST", b"PUT", b"PATCH"})


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
        self.parser = self._new_parser()
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
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self._task: asyncio.Task[None] | None = None
        self._framing_headers: list[tuple[bytes, bytes]] = []
        self._blank_line = BlankLine()
        self._head_bytes = 0
        self._counted_bytes = 0  # of requests without a known tenant, as Idle counts them
        self._body_left = 0
        self._body_untaken = 0
        self._chunk_overhead = 0
        self._upgrade_asked = False

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
        del self.parser  # it refers back to us

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
        elif self.reading is DISCARDING:
            self._discarded_bytes += len(data)
            if self._discarded_bytes > DISCARD_BYTES:
                self._pause()
        elif self.reading is LINGERING:
            self._discard(len(data))
        elif self.reading is not CLOSED:
            self._read(data)

    def _read(self, data: bytes) -> None:
        """Feeds the parser up to the end of one message and holds the rest."""
        before = self.reading
        while data and self.reading <= BODY:
            taken = self._feed_body(data) if self.reading is BODY else self._feed_head(data)
            data = data[taken:] if taken < len(data) else b""
        now = self.reading
        if now is not before:
            if now is PENDING:
                self._deadline = math.inf
            elif now is HEAD:
                self._set_deadline(self.limits.header_timeout_s)
            elif now is BODY:
                self._set_deadline(self.limits.body_timeout_s)
        if data and now is PENDING:
            if self._bodyless_post() and not begins_request(data):
                assert self._task is not None
                self._task.cancel()  # started in this turn of the loop, so it has not run
                self.refuse(BadFraming("the body has neither a Content-Length nor Transfer-Encoding: chunked"))
            else:
                self._hold(data)
        elif now is HEAD or self._counted_bytes:
            self._hold_bytes(self._head_bytes if now is HEAD else 0)

    def _bodyless_post(self) -> bool:
        """Whether the request that was just read should have a body, but announced none."""
        return self.parser.get_method() in _WITH_BODY and not any(
            name in (b"content-length", b"transfer-encoding") for name, _ in self._framing_headers
        )

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

    def _feed_head(self, data: bytes) -> int:
        """Gives the parser bytes of the head, at least one. Returns how many."""
        end = self._blank_line.end_in(data)
        piece = data[:end] if 0 < end < len(data) else data
        self._head_bytes += len(piece)
        if self._head_bytes > self.limits.header_bytes:
            self.refuse(HeadersTooLarge(f"request line and headers are above {self.limits.header_bytes} bytes"))
        elif self._feed(piece) and self.reading is IDLE and piece.strip(b"\r\n"):
            self._move(HEAD)
        return len(piece)

    def _feed_body(self, data: bytes) -> int:
        """Gives the parser bytes of the body, at least one. Returns how many."""
        left = self._body_left
        end = left if left != CHUNKED else self._blank_line.end_in(data)
        piece = data[:end] if 0 < end < len(data) else data
        if left != CHUNKED:
            self._body_left -= len(piece)
            self._feed(piece)
            return len(piece)
        self._chunk_overhead += len(piece)
        if self._feed(piece) and self._chunk_overhead > self.limits.header_bytes:
            self.refuse(HeadersTooLarge(f"chunk extensions or trailers are above {self.limits.header_bytes} bytes"))
        return len(piece)

    def _feed(self, piece: bytes) -> bool:
        """Gives `piece` to the parser. False if the request was refused."""
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError as exc:
            self.refuse(self._reason(exc))
            return False
        else:
            return True
        return self._feed_without_upgrade()  # outside the handler, so that its errors get no context

    def _reason(self, exc: httptools.HttpParserError) -> GatewayError:
        cause = exc.__context__
        if isinstance(cause, GatewayError):
            return cause
        if isinstance(exc, httptools.HttpParserCallbackError) and not isinstance(cause, httptools.HttpParserError):
            log.error("reading a request failed", exc_info=exc)
            return Internal("the gateway failed to read the request; its log has the cause under this request id")
        return BadFraming(f"{exc or 'this is not an HTTP request'}")

    def _feed_without_upgrade(self) -> bool:
        """Reads the head again without its Upgrade header: the gateway offers no upgrade, and llhttp skips the body."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        head = [b"%b %b HTTP/%b\r\n" % (method, self.url, version)]
        head += [b"%b: %b\r\n" % (name, value) for name, value in self.headers if name != b"upgrade"]
        self.parser = self._new_parser()
        return self._feed(b"".join([*head, b"\r\n"]))

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # Source: llhttp, "lenient data after close": bytes after a request with `Connection: close` are not an error.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    # Callbacks of the parser

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self._framing_headers = []
        self._upgrade_asked = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.reading is BODY:
            return  # a trailer
        name, value = name.lower(), value.strip(OWS)
        self.headers.append((name, value))
        if len(self.headers) > MAX_HEADERS:
            raise HeadersTooLarge(f"the request has more than the maximum of {MAX_HEADERS} headers")
        if name in FRAMING_HEADERS:
            self._framing_headers.append((name, value))

    def on_headers_complete(self) -> None:
        parser = self.parser
        method = parser.get_method().decode("ascii")
        if method == "CONNECT":
            raise BadFraming("CONNECT is not supported: the gateway is not a forward proxy")
        if parser.should_upgrade():
            self._upgrade_asked = True
            return
        version = parser.get_http_version()
        body_bytes, continues = framing(version, self.url, self._framing_headers)
        cycle = Cycle(
            self,
            head_only=method == "HEAD",
            version=version,
            keep_alive=parser.should_keep_alive(),
            continues=continues,
            head_bytes=self._head_bytes,
        )
        self.server_state.idle.remove(self)
        scope = self._scope(method, version, cycle)
        self.current = cycle
        self._head_bytes = self._chunk_overhead = self._body_untaken = 0
        self._body_left = body_bytes
        self._move(BODY)
        self._task = self.loop.create_task(cycle.run(self.app, scope))
        self.server_state.tasks.add(self._task)
        self._task.add_done_callback(self.server_state.tasks.discard)

    def _scope(self, method: str, version: str, cycle: Cycle) -> dict[str, Any]:
        target = self.url
        if target.startswith(b"/"):
            raw_path, _, query = target.partition(b"?")
        else:
            parsed = httptools.parse_url(target)
            raw_path, query = parsed.path or b"/", parsed.query or b""
        path = raw_path.decode("ascii")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "method": method,
            "root_path": "",
            "path": urllib.parse.unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self.headers,
            "state": dict(self.app_state),
            "extensions": {EXTENSION: cycle},
        }

    def on_body(self, body: bytes) -> None:
        self._chunk_overhead = 0
        self._body_untaken += len(body)
        if self.current is not None:
            self.current.add_body(body)
        if self._body_untaken > BODY_HIGH_WATER:
            self._pause()

    def on_message_complete(self) -> None:
        if self._upgrade_asked:
            return
        self._move(PENDING)
        self._resume()  # a large body may have paused it
        if self.current is not None:
            self.current.end_body()

    # Called by the cycle

    def want_body(self) -> None:
        """The application waits for the body: reading continues."""
        if self.reading is BODY:
            self._resume()

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
        """Closes the sending side and reads for a moment: closing at once would reset the answer away."""
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
