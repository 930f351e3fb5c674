"""One connection: reads bytes, keeps answers in order, holds them until their commit. Every buffer is bounded.

Invariants
1. Answers leave in the order of their commands. One that depends on a commit leaves after it, and so do all behind it.
2. A command that reads waits for this connection's own sets, so a client sees its own stored items; other connections
   see an item once it is committed.
3. Nothing is parsed while a get is blocked, a monitor runs, a long answer is written, a barrier is set, or the client
   does not read.
4. However the connection ends, its waiter is gone and its open reads are back before anything else happens.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, Protocol

from gateway.common import net
from gateway.common.states import check_move

from .batch import Item, Ticket
from .broker import Broker
from .codec import END, NOT_STORED, Command, Decoder, value
from .memory import SMALL_BYTES
from .queue import Mode, OpenRead, Queue

READ_LIMIT = 65536
HELD_BYTES = 1 << 20
HELD_ANSWERS = 2000
_WRITE_BYTES = 256 << 10
_LINGER_S = 1.0
"""A close with unread bytes is a reset, which can destroy the last answer."""
_TCP_OPTIONS = net.keepalive(idle_s=60, interval_s=10, probes=3)
"""A client whose host died gives its open reads back after 90 s, not after the kernel's two hours."""


class State(Enum):
    """READY parses; WAITING in a get; MONITORING; BARRED until a commit; ENDING writes held answers, then closes;
    STREAMING writes a long answer."""

    READY = 1
    WAITING = 2
    MONITORING = 3
    BARRED = 4
    ENDING = 5
    CLOSED = 6
    STREAMING = 7


_MOVES = {
    State.READY: {State.WAITING, State.MONITORING, State.BARRED, State.STREAMING, State.ENDING, State.CLOSED},
    State.STREAMING: {State.READY, State.CLOSED},
    State.WAITING: {State.READY, State.CLOSED},
    State.MONITORING: {State.READY, State.CLOSED},
    State.BARRED: {State.READY, State.ENDING, State.CLOSED},
    State.ENDING: {State.CLOSED},
    State.CLOSED: set(),
}


class Wait:
    """A get that waits: for an item if `patient`, otherwise only for items on disk."""

    __slots__ = ("mode", "patient", "queue", "session", "timer")

    def __init__(self, session: Session, queue: Queue, mode: Mode, *, patient: bool) -> None:
        self.session = session
        self.queue = queue
        self.mode = mode
        self.patient = patient
        self.timer: asyncio.TimerHandle | None = None

    def receive(self, item: Item, read: OpenRead | None, ticket: Ticket | None) -> None:
        session = self.session
        session.finish_wait()
        session.deliver(self.queue, item, read, ticket)
        session.resume()

    def nothing(self, error: str | None) -> None:
        session = self.session
        session.finish_wait()
        if error is None:
            session.broker.counters.get_misses += 1
            session.answer(END)
            session.resume()
        else:
            session.fail(error)

    def time_out(self) -> None:
        self.queue.leave(self)
        self.nothing(None)


class Monitoring:
    """A monitor: items as they arrive, each an open read, until `left` is used up or the time is over."""

    __slots__ = ("left", "mode", "patient", "queue", "session", "timer")

    def __init__(self, session: Session, queue: Queue, left: int) -> None:
        self.mode = Mode.OPEN
        self.patient = True
        self.session = session
        self.queue = queue
        self.left = left
        self.timer: asyncio.TimerHandle | None = None

    def receive(self, item: Item, read: OpenRead | None, ticket: Ticket | None) -> None:
        self.take(item, read, ticket)
        self.session.go_on()

    def take(self, item: Item, read: OpenRead | None, ticket: Ticket | None) -> None:
        self.left -= 1
        self.session.deliver(self.queue, item, read, ticket)

    def nothing(self, error: str | None) -> None:
        if error is None:
            self.session.finish_monitor()
        else:
            self.session.fail(error)

    def time_out(self) -> None:
        self.queue.leave(self)
        self.session.finish_monitor()


class Host(Protocol):
    """Keeps the sessions. It is informed when a connection begins and ends."""

    def opened(self, session: Session) -> None: ...
    def spoke(self, session: Session) -> None:
        """Its first command is complete."""

    def lost(self, session: Session) -> None: ...


class Session(asyncio.Protocol):
    """One client. `execute` runs a command on it (commands.py)."""

    __slots__ = (
        "_choked",
        "_decoder",
        "_ended",
        "_execute",
        "_held",
        "_held_bytes",
        "_host",
        "_kept",
        "_last_put",
        "_out",
        "_out_bytes",
        "_parked",
        "_parts",
        "_paused",
        "_refused",
        "_resuming",
        "_spoke",
        "_state",
        "_wait",
        "active_s",
        "broker",
        "is_local",
        "reads",
        "transport",
    )

    def __init__(self, broker: Broker, host: Host, execute: Callable[[Session, Command], None]) -> None:
        # process
        self.broker = broker
        self._execute = execute
        self._host = host
        # connection
        self.transport: Any = None
        self.is_local = False  # a Unix socket: the gateway, or a client of this user; not limited
        self.reads: dict[bytes, deque[OpenRead]] = {}
        self.active_s = broker.loop.time()
        self._state = State.READY
        self._decoder = Decoder(broker.options.max_item_bytes)
        self._held: deque[tuple[Ticket | None, int, bytes]] = deque()  # ticket, the item's id or 0, answer
        self._held_bytes = 0
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._last_put: Ticket | None = None
        self._choked = False  # the client does not read its answers
        self._paused = False  # the client is not read
        self._resuming = False
        self._refused = False  # it ends because of its bytes, and the client may still be sending
        self._spoke = False
        self._kept = 0  # bytes, as last reported to the limit
        # command
        self._parked: Command | None = None
        self._parts: Iterator[bytes] = iter(())
        self._ended = False  # the client sends no more, and a long answer is being written
        self._wait: Wait | Monitoring | None = None

    def __repr__(self) -> str:
        return f"<Session {self._state.name} held={len(self._held)} reads={sum(map(len, self.reads.values()))}>"

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        sock = transport.get_extra_info("socket")
        self.is_local = sock.family == socket.AF_UNIX
        if not self.is_local:
            net.set_options(sock, _TCP_OPTIONS)
        counters = self.broker.counters
        counters.curr_connections += 1
        counters.total_connections += 1
        self._host.opened(self)

    @property
    def peer(self) -> str:
        """The client's address, for the log."""
        found = self.transport.get_extra_info("peername")
        return f"{found[0]}:{found[1]}" if isinstance(found, tuple) else "a Unix socket"

    def data_received(self, data: bytes) -> None:
        if self._state is State.CLOSED:
            return
        self.broker.counters.bytes_read += len(data)
        self.active_s = self.broker.loop.time()
        self._decoder.feed(data)
        if self._state is State.READY and not self._choked:
            self._work()
        elif self._decoder.buffered > READ_LIMIT:
            self._pause()
        if self._kept or self._decoder.buffered > SMALL_BYTES:
            self._count()

    def eof_received(self) -> bool:
        """A client that only shut down its sending side still gets the answers to its commands, but its waits end."""
        if self._state is State.STREAMING:
            self._ended = True
            return True
        if self._held and self._state in (State.READY, State.BARRED):
            self._move(State.ENDING)
            return True
        self._close()
        return False

    def connection_lost(self, _: Exception | None) -> None:
        self._close()
        self._choked = False
        self._decoder.close()
        self._count()
        self._host.lost(self)
        self.broker.counters.curr_connections -= 1

    def pause_writing(self) -> None:
        self._choked = True
        self._pause()
        self.broker.loop.call_soon(self._count)  # inside a write: unsent bytes are not in the buffer yet

    def resume_writing(self) -> None:
        self._choked = False
        self._count()
        self.resume()
        if self._state is State.MONITORING:
            self.go_on()
        elif self._state is State.STREAMING:
            self._next_part()

    def _pause(self) -> None:
        if not self._paused and self._state is not State.CLOSED:
            self._paused = True
            self.transport.pause_reading()

    # Buffered bytes

    def _count(self) -> None:
        """Reports the bytes that are buffered for this client, which has just sent or read something."""
        size = self._decoder.buffered
        if self._choked:
            size += self.transport.get_write_buffer_size()
        kept = size if size > SMALL_BYTES and not self.is_local else 0
        if kept or self._kept:
            self._kept = kept
            self.broker.memory.progress(self, kept)

    def drop(self) -> None:
        """There is no memory for its buffers: ends it at once. An incomplete item gets an answer; unread answers do
        not."""
        self._kept = 0
        self.broker.tell_dropped(self.peer)
        half_sent = self._state is not State.CLOSED and not self._choked
        self._decoder.close()
        if half_sent:
            self.fail("out of memory for incomplete items; send it again later")
        else:
            self._close()
            self.transport.abort()

    # Parsing and running

    def _work(self) -> None:
        while self._state is State.READY and not self._choked:
            command = self._parked
            if command is None:
                command = self._decoder.next()
                if command is None:
                    break
            else:
                self._parked = None
            if not self._spoke:
                self._spoke = True
                self._host.spoke(self)
            self._execute(self, command)
            if self._out_bytes > _WRITE_BYTES:
                self._write()
            if self._held_bytes > HELD_BYTES or len(self._held) > HELD_ANSWERS:
                self.bar(None)
        self._write()
        if self._paused and self._state is State.READY and not self._choked:
            self._paused = False
            self.transport.resume_reading()

    def resume(self) -> None:
        """Continues with what the client has sent, when its turn comes; never while a queue serves waiters."""
        self._write()
        if not self._resuming and (self._decoder.buffered or self._parked is not None or self._paused):
            self._resuming = True
            self.broker.loop.call_soon(self._resumed)

    def _resumed(self) -> None:
        self._resuming = False
        if self._state is State.READY:
            self._work()

    def bar(self, command: Command | None) -> None:
        """Runs nothing more until the held answers are sent; then runs `command`."""
        if self._state is State.READY:
            self._parked = command
            if self._held:
                self._move(State.BARRED)

    @property
    def has_uncommitted_puts(self) -> bool:
        return self._last_put is not None and not self._last_put.done

    def bar_on(self, ticket: Ticket, command: Command) -> None:
        """Runs `command` when the ticket is settled."""
        self._held_until(ticket, b"")
        self.bar(command)

    def _move(self, state: State) -> None:
        check_move("a session", _MOVES, self._state, state)
        self._state = state

    # Answers

    def answer(self, data: bytes) -> None:
        """Sends the data after the held answers."""
        if self._held:
            self._held.append((None, 0, data))
            self._held_bytes += len(data)
        elif data:
            self._out.append(data)
            self._out_bytes += len(data)

    def stream(self, parts: Iterator[bytes]) -> None:
        """Answers with the parts. Each part is made and sent in its own turn of the loop; others run in between."""
        self._parts = parts
        self._move(State.STREAMING)
        self.broker.loop.call_soon(self._next_part)

    def _next_part(self) -> None:
        if self._state is not State.STREAMING or self._choked:
            return
        part = next(self._parts, None)
        if part is not None:
            self.answer(part)
            self._write()
            self.broker.loop.call_soon(self._next_part)
            return
        self._move(State.READY)
        if self._ended:
            self._work()
            self.eof_received()
        else:
            self.resume()

    def hold(self, ticket: Ticket | None, data: bytes, item_id: int = 0) -> None:
        """Sends the data when the ticket is settled; SERVER_ERROR and close if that failed.

        `item_id`: of the item in the answer; NOT_STORED if the disk could not store just that item.
        """
        if ticket is None:
            self.answer(data)
        elif ticket.done and ticket.error is not None:
            self.fail(ticket.error)
        elif ticket.done:
            self.answer(_outcome(ticket, item_id, data))
        else:
            self._held_until(ticket, data, item_id)

    def hold_put(self, ticket: Ticket | None, data: bytes, item_id: int) -> None:
        """Like `hold`; reads of this connection wait for it."""
        if ticket is not None:
            self._last_put = ticket
        self.hold(ticket, data, item_id)

    def _held_until(self, ticket: Ticket, data: bytes, item_id: int = 0) -> None:
        self._held.append((ticket, item_id, data))
        self._held_bytes += len(data)
        ticket.holders[self] = None

    def release(self) -> None:
        """A ticket was settled: sends the answers that waited for it."""
        held = self._held
        while held:
            ticket, item_id, data = held[0]
            if ticket is not None:
                if not ticket.done:
                    break
                if ticket.error is not None:
                    held.clear()
                    self.fail(ticket.error)
                    return
            held.popleft()
            self._held_bytes -= len(data)
            if ticket is not None and ticket.refused:
                data = _outcome(ticket, item_id, data)
            if data:
                self._out.append(data)
                self._out_bytes += len(data)
        self._write()
        if self._state is State.ENDING and not held:
            self._close(linger=self._refused)
        elif self._state is State.BARRED and not held:
            self._move(State.READY)
            self.resume()

    def _write(self) -> None:
        if self._out and self._state is not State.CLOSED:
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out.clear()
            self._out_bytes = 0
            self.broker.counters.bytes_written += len(data)
            self.active_s = self.broker.loop.time()
            self.transport.write(data)

    def deliver(self, queue: Queue, item: Item, read: OpenRead | None, ticket: Ticket | None) -> None:
        """Gives the item to this client: records an open read, and sends the item."""
        self.broker.counters.get_hits += 1
        if read is not None:
            reads = self.reads.get(queue.name)
            if reads is None:
                reads = self.reads[queue.name] = deque()
            reads.append(read)
        self.hold(ticket, value(queue.name, item.data))

    def fail(self, why: str) -> None:
        """Sends SERVER_ERROR and closes the connection."""
        self.end(b"SERVER_ERROR " + why.encode("utf-8", "replace").replace(b"\r", b" ").replace(b"\n", b" ") + b"\r\n")

    def end(self, data: bytes) -> None:
        """The last answer: closes the connection after the held answers. Further commands are not run."""
        if data:
            self.answer(data)
        if self._held and self._state in (State.READY, State.BARRED):
            self._refused = bool(data)
            self._move(State.ENDING)
        else:
            self._write()
            self._close(linger=bool(data))

    def _close(self, *, linger: bool = False) -> None:
        """Ends its wait and gives open reads back now. With `linger` the client may finish sending, to read the
        reason."""
        if self._state is State.CLOSED:
            return
        if self._wait is not None:
            self._wait.queue.leave(self._wait)
            if self._wait.timer is not None:
                self._wait.timer.cancel()
            self._wait = None
        self._state = State.CLOSED
        self._held.clear()
        self._out.clear()
        self._parked = None
        reads, self.reads = self.reads, {}
        for of_queue in reads.values():
            for read in of_queue:
                read.queue.give_back(read)
        if linger and not self.transport.is_closing():
            self.transport.write_eof()
            if self._paused:
                self.transport.resume_reading()
            self.broker.loop.call_later(_LINGER_S, self.transport.close)
        else:
            self.transport.close()

    # Waiting

    def wait(self, queue: Queue, mode: Mode, wait_s: float | None) -> None:
        """Blocks until the queue has an item, at most `wait_s`; with None only until it is certain that it has none."""
        wait = Wait(self, queue, mode, patient=wait_s is not None)
        if wait_s is not None:
            wait.timer = self.broker.loop.call_later(wait_s, wait.time_out)
        self._wait = wait
        self._move(State.WAITING)
        queue.join(wait)
        if self._decoder.buffered > READ_LIMIT:
            self._pause()

    def finish_wait(self) -> None:
        """The get has its answer."""
        assert self._wait is not None
        if self._wait.timer is not None:
            self._wait.timer.cancel()
        self._wait = None
        self._move(State.READY)

    def monitor(self, queue: Queue, left: int, seconds: float) -> None:
        """Runs a monitor. A command that was sent together with it ends the connection. Source: transcript 6d."""
        monitoring = Monitoring(self, queue, left)
        self._wait = monitoring
        self._move(State.MONITORING)
        monitoring.timer = self.broker.loop.call_later(seconds, monitoring.time_out)
        self.go_on()
        if self._state is State.MONITORING and self._decoder.buffered:
            self._out.clear()
            self._close()

    def go_on(self) -> None:
        """The monitor takes ready items and waits for more; it ends when its limit is reached."""
        monitoring = self._wait
        assert isinstance(monitoring, Monitoring)
        queue = monitoring.queue
        while not self._choked:
            if monitoring.left <= 0 or len(self.reads.get(queue.name, ())) >= self.broker.options.max_open_reads:
                self.finish_monitor()
                return
            found = None if queue.waiters else queue.read(Mode.OPEN)
            if found is None:
                queue.join(monitoring)
                break
            monitoring.take(*found)
            if self._out_bytes > _WRITE_BYTES:
                self._write()
        self._write()

    def finish_monitor(self) -> None:
        """Ends the monitor."""
        assert self._wait is not None
        if self._wait.timer is not None:
            self._wait.timer.cancel()
        self._wait = None
        self._move(State.READY)
        self.answer(END)
        self.resume()

    # Called by the server

    def check(self, quiet_since_s: float | None) -> None:
        """Called regularly: closes if the client disconnected while it was not read, or was idle for too long."""
        if self._state is State.CLOSED:
            return
        if quiet_since_s is not None and self.active_s < quiet_since_s:
            self._close()
        elif self._paused:
            poll = select.poll()
            poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
            if poll.poll(0):
                self._close()

    def stop(self) -> None:
        """The server stops: sends the held answers first."""
        if self._state in (State.READY, State.BARRED) and self._held:
            self._move(State.ENDING)
        elif self._state is not State.ENDING:
            self._close()


def _outcome(ticket: Ticket | None, item_id: int, data: bytes) -> bytes:
    """The answer after the ticket is settled; `data` if it succeeded."""
    return NOT_STORED if data and ticket is not None and item_id in ticket.refused else data
