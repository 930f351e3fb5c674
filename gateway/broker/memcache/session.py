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

from gateway.broker.broker import Broker
from gateway.broker.memcache.answers import Answers
from gateway.broker.memcache.codec import END, Command, Decoder, value
from gateway.broker.memcache.waits import Monitoring, WaitingGet
from gateway.broker.memory import SMALL_BYTES
from gateway.broker.queues.queue import PersistentQueue
from gateway.broker.queues.reads import OpenItem, ReadMode
from gateway.broker.storage.batch import StoredItem, Ticket
from gateway.common import net
from gateway.common.states import check_move

READ_LIMIT = 65536
_WRITE_BYTES = 256 << 10
_LINGER_S = 1.0
"""A close with unread bytes is a reset, which can destroy the last answer."""
_TCP_OPTIONS = net.keepalive(idle_s=60, interval_s=10, probes=3)
"""A client whose host died gives its open reads back after 90 s, not after the kernel's two hours."""


class SessionState(Enum):
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
    SessionState.READY: {
        SessionState.WAITING,
        SessionState.MONITORING,
        SessionState.BARRED,
        SessionState.STREAMING,
        SessionState.ENDING,
        SessionState.CLOSED,
    },
    SessionState.STREAMING: {SessionState.READY, SessionState.CLOSED},
    SessionState.WAITING: {SessionState.READY, SessionState.CLOSED},
    SessionState.MONITORING: {SessionState.READY, SessionState.CLOSED},
    SessionState.BARRED: {SessionState.READY, SessionState.ENDING, SessionState.CLOSED},
    SessionState.ENDING: {SessionState.CLOSED},
    SessionState.CLOSED: set(),
}


class Host(Protocol):
    """Keeps the sessions. It is informed when a connection begins and ends."""

    def opened(self, session: Session) -> None: ...
    def spoke(self, session: Session) -> None:
        """Its first command is complete."""

    def lost(self, session: Session) -> None: ...


class Session(asyncio.Protocol):
    """One client. `execute` runs a command on it (commands.py)."""

    __slots__ = (
        "_answers",
        "_decoder",
        "_ended",
        "_execute",
        "_host",
        "_kept",
        "_last_put",
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
        "choked",
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
        self.reads: dict[bytes, deque[OpenItem]] = {}
        self.active_s = broker.loop.time()
        self._state = SessionState.READY
        self._decoder = Decoder(broker.options.max_item_bytes)
        self._answers = Answers()
        self._last_put: Ticket | None = None
        self.choked = False  # the client does not read its answers
        self._paused = False  # the client is not read
        self._resuming = False
        self._refused = False  # it ends because of its bytes, and the client may still be sending
        self._spoke = False
        self._kept = 0  # bytes, as last reported to the limit
        # command
        self._parked: Command | None = None
        self._parts: Iterator[bytes] = iter(())
        self._ended = False  # the client sends no more, and a long answer is being written
        self._wait: WaitingGet | Monitoring | None = None

    def __repr__(self) -> str:
        return f"<Session {self._state.name} held={len(self._answers)} reads={sum(map(len, self.reads.values()))}>"

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
        if self._state is SessionState.CLOSED:
            return
        self.broker.counters.bytes_read += len(data)
        self.active_s = self.broker.loop.time()
        self._decoder.feed(data)
        if self._state is SessionState.READY and not self.choked:
            self._work()
        elif self._decoder.buffered > READ_LIMIT:
            self._pause()
        if self._kept or self._decoder.buffered > SMALL_BYTES:
            self._count()

    def eof_received(self) -> bool:
        """A client that only shut down its sending side still gets the answers to its commands, but its waits end."""
        if self._state is SessionState.STREAMING:
            self._ended = True
            return True
        if self._answers and self._state in (SessionState.READY, SessionState.BARRED):
            self._move(SessionState.ENDING)
            return True
        self._close()
        return False

    def connection_lost(self, _: Exception | None) -> None:
        self._close()
        self.choked = False
        self._decoder.close()
        self._count()
        self._host.lost(self)
        self.broker.counters.curr_connections -= 1

    def pause_writing(self) -> None:
        self.choked = True
        self._pause()
        self.broker.loop.call_soon(self._count)  # inside a write: unsent bytes are not in the buffer yet

    def resume_writing(self) -> None:
        self.choked = False
        self._count()
        self.resume()
        if self._state is SessionState.MONITORING:
            assert isinstance(self._wait, Monitoring)
            self._wait.go_on()
        elif self._state is SessionState.STREAMING:
            self._next_part()

    def _pause(self) -> None:
        if not self._paused and self._state is not SessionState.CLOSED:
            self._paused = True
            self.transport.pause_reading()

    # Buffered bytes

    def _count(self) -> None:
        """Reports the bytes that are buffered for this client, which has just sent or read something."""
        size = self._decoder.buffered
        if self.choked:
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
        half_sent = self._state is not SessionState.CLOSED and not self.choked
        self._decoder.close()
        if half_sent:
            self.fail("out of memory for incomplete items; send it again later")
        else:
            self._close()
            self.transport.abort()

    # Parsing and running

    def _work(self) -> None:
        answers = self._answers
        while self._state is SessionState.READY and not self.choked:
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
            self.write_if_many()
            if answers.full:
                self.bar(None)
        self.write()
        if self._paused and self._state is SessionState.READY and not self.choked:
            self._paused = False
            self.transport.resume_reading()

    def resume(self) -> None:
        """Continues with what the client has sent, when its turn comes; never while a queue serves waiters."""
        self.write()
        if not self._resuming and (self._decoder.buffered or self._parked is not None or self._paused):
            self._resuming = True
            self.broker.loop.call_soon(self._resumed)

    def _resumed(self) -> None:
        self._resuming = False
        if self._state is SessionState.READY:
            self._work()

    def bar(self, command: Command | None) -> None:
        """Runs nothing more until the held answers are sent; then runs `command`."""
        if self._state is SessionState.READY:
            self._parked = command
            if self._answers:
                self._move(SessionState.BARRED)

    @property
    def has_uncommitted_puts(self) -> bool:
        return self._last_put is not None and not self._last_put.done

    def bar_on(self, ticket: Ticket, command: Command) -> None:
        """Runs `command` when the ticket is settled."""
        self._answers.hold(ticket, b"", self)
        self.bar(command)

    def _move(self, state: SessionState) -> None:
        check_move("a session", _MOVES, self._state, state)
        self._state = state

    # Answers

    def answer(self, data: bytes) -> None:
        """Sends the data after the held answers."""
        self._answers.add(data)

    def stream(self, parts: Iterator[bytes]) -> None:
        """Answers with the parts. Each part is made and sent in its own turn of the loop; others run in between."""
        self._parts = parts
        self._move(SessionState.STREAMING)
        self.broker.loop.call_soon(self._next_part)

    def _next_part(self) -> None:
        if self._state is not SessionState.STREAMING or self.choked:
            return
        part = next(self._parts, None)
        if part is not None:
            self.answer(part)
            self.write()
            self.broker.loop.call_soon(self._next_part)
            return
        self._move(SessionState.READY)
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
            self._answers.add(data)
        elif ticket.done and ticket.error is not None:
            self.fail(ticket.error)
        elif ticket.done:
            self._answers.add_settled(ticket, data, item_id)
        else:
            self._answers.hold(ticket, data, self, item_id)

    def hold_put(self, ticket: Ticket | None, data: bytes, item_id: int) -> None:
        """Like `hold`; reads of this connection wait for it."""
        if ticket is not None:
            self._last_put = ticket
        self.hold(ticket, data, item_id)

    def release(self) -> None:
        """A ticket was settled: sends the answers that waited for it."""
        error = self._answers.release()
        if error is not None:
            self.fail(error)
            return
        self.write()
        if self._state is SessionState.ENDING and not self._answers:
            self._close(linger=self._refused)
        elif self._state is SessionState.BARRED and not self._answers:
            self._move(SessionState.READY)
            self.resume()

    def write(self) -> None:
        """Writes the answers that wait for nothing."""
        if self._answers.ready_bytes and self._state is not SessionState.CLOSED:
            data = self._answers.take()
            self.broker.counters.bytes_written += len(data)
            self.active_s = self.broker.loop.time()
            self.transport.write(data)

    def write_if_many(self) -> None:
        """Writes the answers if they are many, so that a client that does not read them is noticed."""
        if self._answers.ready_bytes > _WRITE_BYTES:
            self.write()

    def deliver(self, queue: PersistentQueue, item: StoredItem, read: OpenItem | None, ticket: Ticket | None) -> None:
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
        if self._answers and self._state in (SessionState.READY, SessionState.BARRED):
            self._refused = bool(data)
            self._move(SessionState.ENDING)
        else:
            self.write()
            self._close(linger=bool(data))

    def _close(self, *, linger: bool = False) -> None:
        """Ends its wait and gives open reads back now. With `linger` the client may finish sending, to read the
        reason."""
        if self._state is SessionState.CLOSED:
            return
        if self._wait is not None:
            self._wait.queue.waiters.leave(self._wait)
            if self._wait.timer is not None:
                self._wait.timer.cancel()
            self._wait = None
        self._state = SessionState.CLOSED
        self._answers.clear()
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

    def wait(self, queue: PersistentQueue, mode: ReadMode, wait_s: float | None) -> None:
        """Blocks until the queue has an item, at most `wait_s`; with None only until it is certain that it has none."""
        wait = WaitingGet(self, queue, mode, patient=wait_s is not None)
        if wait_s is not None:
            wait.timer = self.broker.loop.call_later(wait_s, wait.time_out)
        self._wait = wait
        self._move(SessionState.WAITING)
        queue.waiters.join(wait)
        if self._decoder.buffered > READ_LIMIT:
            self._pause()

    def finish_wait(self) -> None:
        """The get, or the monitor, is over."""
        assert self._wait is not None
        if self._wait.timer is not None:
            self._wait.timer.cancel()
        self._wait = None
        self._move(SessionState.READY)

    def monitor(self, queue: PersistentQueue, left: int, seconds: float) -> None:
        """Runs a monitor. A command that was sent together with it ends the connection. Source: transcript 6d."""
        monitoring = Monitoring(self, queue, left)
        self._wait = monitoring
        self._move(SessionState.MONITORING)
        monitoring.timer = self.broker.loop.call_later(seconds, monitoring.time_out)
        monitoring.go_on()
        if self._state is SessionState.MONITORING and self._decoder.buffered:
            self._answers.forget_ready()
            self._close()

    def may_open(self, queue: PersistentQueue) -> bool:
        """Whether it may have a further open read of the queue."""
        return len(self.reads.get(queue.name, ())) < self.broker.options.max_open_reads

    def miss(self) -> None:
        """The answer of a get that found nothing."""
        self.broker.counters.get_misses += 1
        self.answer(END)

    def finish_monitor(self) -> None:
        """Ends the monitor."""
        self.finish_wait()
        self.answer(END)
        self.resume()

    # Called by the server

    def check(self, quiet_since_s: float | None) -> None:
        """Called regularly: closes if the client disconnected while it was not read, or was idle for too long."""
        if self._state is SessionState.CLOSED:
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
        if self._state in (SessionState.READY, SessionState.BARRED) and self._answers:
            self._move(SessionState.ENDING)
        elif self._state is not SessionState.ENDING:
            self._close()
