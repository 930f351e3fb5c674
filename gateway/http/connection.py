"""One client connection of the HTTP server: reads requests one after the other, and detects at once that a client left.

Owns the connection's state, its deadline and every answer that the server makes itself. Knows no routes, queues or
leases. Back-pressure is in flow.py, received bytes that wait in read_buffer.py, the close in lingering.py.

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
from typing import Final, cast

from gateway.common.counted import counted
from gateway.common.states import check_move
from gateway.errors import BadFraming, GatewayError, RequestTimeout, Unavailable
from gateway.http import tcp
from gateway.http.cycle import STATUS_LINES, Cycle, Handle
from gateway.http.deadline import Deadline
from gateway.http.flow import Flow
from gateway.http.framing import begins_request
from gateway.http.lingering import LINGER_S, Lingering
from gateway.http.read_buffer import ReadBuffer
from gateway.http.request_head import RequestHead
from gateway.http.request_parser import RequestParser
from gateway.http.state import ServerState
from gateway.nonce import new_request_id
from gateway.problem import problem_bytes, refusal_headers

log = logging.getLogger(__name__)

BODY_HIGH_WATER: Final = 65536  # of a body that the application has not yet taken
UNSENT_BYTES: Final = 8192  # of a response that counts as sent
IDLE_MARGIN_S: Final = 1.0  # beyond the announced time: a request at its last moment is still served
CHUNKS_A_TURN: Final = 2000  # of a body, in one turn of the loop: at most 3 ms


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
    BODY: frozenset({PENDING, DISCARDING, LINGERING, CLOSED}),
    PENDING: frozenset({IDLE, DISCARDING, LINGERING, CLOSED}),
    DISCARDING: frozenset({LINGERING, CLOSED}),
    LINGERING: frozenset({CLOSED}),
    CLOSED: frozenset(),
}


class GatewayProtocol(asyncio.Protocol):
    """One client's connection, with limits, deadlines, problem documents, and detection of clients that disconnect.

    handle: answers each request.
    """

    def __init__(self, handle: Handle, server_state: ServerState, scheme: str) -> None:
        # Process
        self.handle = handle
        self.scheme = scheme
        self.server_state = server_state
        self.limits = server_state.limits
        self.loop = asyncio.get_running_loop()

        # Connection
        self.transport: asyncio.Transport
        self.flow: Flow
        self.server: tuple[str, int | None] | None = None
        self.client: tuple[str, int] | None = None
        self._parser = RequestParser(self, self.limits.header_bytes, server_state.known_heads)
        self._buffer = ReadBuffer(self, server_state.idle)
        self._deadline = Deadline(self.loop, server_state.expiries, self._timed_out)  # of the current state
        self._lingering: Lingering | None = None
        self._tenant = ""  # of the last request
        self.reading = IDLE

        # Request
        self.current: Cycle | None = None
        self._task: asyncio.Task[None] | None = None
        self._reading_on: asyncio.Handle | None = None

    # The connection begins and ends

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=UNSENT_BYTES)
        self.flow = Flow(self.transport, self._vanished)
        self.server, self.client = tcp.addresses(transport.get_extra_info("socket"))
        connections = self.server_state.connections
        connections.add(self)
        idle = self.server_state.idle
        if len(connections) > self.limits.connections and not idle.close_oldest():
            self.refuse(
                Unavailable(
                    f"this worker has reached its limit of {counted(self.limits.connections, 'connection')}; try again "
                    "later"
                )
            )
        else:
            self._deadline.set(self.limits.header_timeout_s)
            idle.add(self)

    def eof_received(self) -> bool:
        """The client closed its sending side: it gets the answers to its complete requests, but its polls end."""
        self.flow.read_ended = True
        if self.current is None:
            return self.reading is IDLE and bool(self._buffer.data)  # a request that waits for its turn to be read
        if self.current.streams_body and self.reading in (BODY, DISCARDING) and not self.current.started:
            if self.reading is BODY and not self._buffer.data:  # otherwise `_read_held` reads that first
                self.refuse(_incomplete())
            return True
        self.current.half_close(last=not self._buffer.data)
        if self.current.gone:
            self._vanished()
            return False
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        self.server_state.one_closed(self)
        self.flow.close()
        self._vanished()
        self._move(CLOSED)
        self._deadline.close()
        self._buffer.close()
        self._parser.close()  # it refers back to us

    def _vanished(self) -> None:
        if self.current is not None:
            self.current.vanish()
            self.current = None
            self.flow.resume_writing()  # no one waits for a reader that is gone

    def _move(self, to: Reading) -> None:
        if to not in MOVES[self.reading]:
            check_move("a connection", MOVES, self.reading, to)
        self.reading = to

    # Bytes come in

    def data_received(self, data: bytes) -> None:
        if self.reading is PENDING:
            self._hold(data)
        elif self.reading is BODY and self._buffer.data:
            self._buffer.data += data
        elif self.reading is DISCARDING:
            if not self._buffer.discard(len(data)):
                self.flow.pause_reading()
        elif self._lingering is not None:
            self._lingering.discard(len(data))
        elif self.reading is IDLE and (self._buffer.data or not self.server_state.starts.may_read(self._tenant)):
            self._read_later(data)
        elif self.reading is not CLOSED:
            self._read(data)

    def _read_later(self, data: bytes) -> None:
        """Holds the start of a request until there is a turn to read it. Until then the request is in progress."""
        if not self._buffer.data:
            self._deadline.clear()
            self.server_state.idle.remove(self)
            self.server_state.starts.later(self._tenant, self._read_on)
        self._hold(data)

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
                self._buffer.data += data
                self.flow.pause_reading()
                break
        now = self.reading
        if now is not before:
            if now is PENDING:
                self._deadline.clear()
            elif now is HEAD:
                self._deadline.set(self.limits.header_timeout_s)
            elif now is BODY:
                self._deadline.set(self.limits.body_timeout_s)
        if data and now is PENDING:
            if self._parser.bodyless_post and not begins_request(data):
                assert self._task is not None
                self._task.cancel()  # started in this turn of the loop, so it has not run, and never will
                self.server_state.tasks.discard(self._task)
                self.refuse(
                    BadFraming(
                        "the request has a body, but no Content-Length and no Transfer-Encoding: chunked; send one"
                    )
                )
            else:
                self._hold(data)
        elif now is HEAD:
            self._buffer.count(self._parser.head_bytes, head=True)
        elif self._buffer.counted:
            self._buffer.count(0)

    def _hold(self, data: bytes) -> None:
        if not self._buffer.hold(data):
            self.flow.pause_reading()
            if self.current is not None and self.current.waiting:
                self.discard_pipelined(self.current)

    # Called by the parser

    def on_request(self, head: RequestHead) -> None:
        """A head is complete: its request starts."""
        self.server_state.idle.remove(self)
        self.current = cycle = Cycle(self, head, self.scheme)
        self._move(BODY)
        self._task = self.loop.create_task(cycle.run(self.handle))
        cycle.task = self._task
        self.server_state.tasks.add(self._task)

    def on_request_body(self, body: bytes) -> None:
        """More of the body."""
        if self.current is not None:
            self.current.add_body(body)
            if self.current.untaken_bytes > BODY_HIGH_WATER:
                self.flow.pause_reading(watch=not self.current.streams_body)

    def on_request_end(self) -> None:
        """The request is complete."""
        self._move(PENDING)
        if self.flow.read_paused:  # by a large body
            self.flow.resume_reading()
        if self.current is not None:
            self.current.end_body()

    # Called by the cycle

    def want_body(self, cycle: Cycle) -> None:
        """The application waits for the body: reading continues."""
        if self.reading is not BODY:
            return
        if cycle.streams_body:
            self._deadline.set(self.limits.body_timeout_s)
        if not self._buffer.data:
            self.flow.resume_reading()
        elif not cycle.untaken_bytes and self._reading_on is None:
            self._reading_on = self.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        """Reads what is held, when it is its turn: more of a body in small chunks, or the start of a request."""
        self._reading_on = None
        if not self._buffer.data or self.transport.is_closing():
            return
        if self.reading is IDLE:
            self._deadline.set(self.limits.header_timeout_s)
            self.server_state.idle.add(self)
            self.flow.resume_reading()
            self._read_held()
        elif self.reading is BODY:
            self._read_held()

    def response_complete(self, cycle: Cycle) -> None:
        """The response is written: the next request begins, or the connection ends."""
        self.server_state.one_answered()
        self.current = None
        self._tenant = cycle.tenant
        if self.transport.is_closing():
            return
        if not cycle.keep_alive:
            self._linger()
            return
        self._move(IDLE)
        if self.flow.read_paused:
            self.flow.resume_reading()
        self.server_state.idle.add(self)
        if self._buffer.data:
            self._read_held()
        else:
            self._deadline.set(self.limits.keep_alive_s + IDLE_MARGIN_S)

    def _read_held(self) -> None:
        """Reads what is held. If the client has closed its sending side, an incomplete request is never completed."""
        self._read(self._buffer.take())
        if not self.flow.read_ended or (self.reading is BODY and self._buffer.data):
            return  # in a body, `_read_on` reads the rest
        if self.current is not None and self.current.streams_body and self.reading is BODY:
            self.refuse(_incomplete())
            return
        if self.current is not None:
            self.current.half_close(last=not self._buffer.data)
            if not self.current.gone:
                return
            self._vanished()
        self.transport.close()

    def discard_pipelined(self, cycle: Cycle) -> None:
        """The request waits for long: bytes behind it that exceed the limit are discarded, because unread bytes would
        hide the client's end."""
        if self.current is cycle and self.reading is PENDING and self._buffer.is_full:
            self._move(DISCARDING)
            cycle.keep_alive = False
            self._buffer.clear()
            self.flow.resume_reading()

    def give_up(self, cycle: Cycle) -> None:
        """The response cannot be completed: closes the connection, so that it does not look complete."""
        cycle.vanish()
        if self.current is cycle:
            self.current = None
            self.transport.close()

    # Answers of the server itself

    def refuse(self, error: GatewayError) -> None:
        """Answers with a problem document instead of the application and closes; a started response is only cut off.

        If the application streams the body that ends with the error, it answers.
        """
        begun = self.current is not None and self.current.started
        if self.reading is BODY and self.current is not None and self.current.streams_body and not begun:
            self._move(DISCARDING)
            self._deadline.clear()
            self._buffer.clear()
            self.flow.resume_reading()
            self.current.end_body(error)
            return
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
        lines = [b"%b: %b\r\n" % header for header in refusal_headers(error, request_id)]
        head = [STATUS_LINES[error.status], self.server_state.date_line, *lines, b"content-length: %d\r\n" % len(body)]
        head.append(b"connection: close\r\n\r\n")
        self.transport.write(b"".join([*head, body]))
        self._linger()

    def _linger(self) -> None:
        """Closes the sending side and reads for a moment."""
        complete = self.reading is PENDING and not self._buffer.data
        self._move(LINGERING)
        self._lingering = Lingering(self.transport, self.server_state)
        self._buffer.clear()
        self.server_state.idle.add(self)
        halves = self.transport.can_write_eof()  # TLS cannot close one side
        if self.flow.read_ended or (complete and not halves):
            self.transport.close()
            return
        self.flow.resume_reading()
        if halves:
            self.transport.write_eof()
        self._deadline.set(LINGER_S)

    def shutdown(self) -> None:
        """The server stops: an idle connection closes; a pending response is the connection's last."""
        if self.current is None:
            if self.reading is not LINGERING:
                self.transport.close()
        else:
            self.current.keep_alive = False

    def _timed_out(self) -> None:
        """The time limit of the current state is over."""
        if self.reading is HEAD:
            self.refuse(RequestTimeout(f"the headers did not arrive within {self.limits.header_timeout_s:g} s"))
        elif self.reading is BODY and self.current is not None and self.current.streams_body:
            if not self.current.listening:  # the application has still to process what has come
                self._deadline.set(self.limits.body_timeout_s)
            else:
                self.refuse(RequestTimeout(f"no data of the body arrived for {self.limits.body_timeout_s:g} s"))
        elif self.reading is BODY:
            self.refuse(RequestTimeout(f"the body did not arrive within {self.limits.body_timeout_s:g} s"))
        else:
            self.transport.close()

    # Called by the transport

    def pause_writing(self) -> None:
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        self.flow.resume_writing()


def _incomplete() -> BadFraming:
    return BadFraming("the client closed its side of the connection before the end of the body")
