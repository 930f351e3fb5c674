"""The commands of one memcache client, in order: each runs when it may, and its answer leaves in its turn. No sockets.

Invariants
1. Answers leave in the order of their commands. One that depends on a commit leaves after it, and so do all behind it.
2. A command that reads waits for this connection's own sets, so a client sees its own stored items; other connections
   see an item once it is committed.
3. No command runs while a long one runs, a commit is awaited, or the client does not read.
4. However the session ends, its long command is over and its open reads are back before anything else happens.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol

from gateway.broker.broker import Broker
from gateway.broker.memcache.answers import Answers
from gateway.broker.memcache.codec import END, Command, Decoder, value
from gateway.broker.queues.reads import ClientReads
from gateway.broker.storage.batch import StoredItem, Ticket
from gateway.common.states import check_move

READ_LIMIT = 65536
WRITE_BYTES = 256 << 10
"""So many answers are written before the next command runs, so that a client that does not read them is noticed."""


class SessionState(Enum):
    """READY runs commands; RUNNING one that takes time; WAITING_FOR_COMMIT none; ENDING sends held answers,
    then closes."""

    READY = 1
    RUNNING = 2
    WAITING_FOR_COMMIT = 3
    ENDING = 4
    CLOSED = 5


_MOVES = {
    SessionState.READY: {
        SessionState.RUNNING,
        SessionState.WAITING_FOR_COMMIT,
        SessionState.ENDING,
        SessionState.CLOSED,
    },
    SessionState.RUNNING: {SessionState.READY, SessionState.CLOSED},
    SessionState.WAITING_FOR_COMMIT: {SessionState.READY, SessionState.ENDING, SessionState.CLOSED},
    SessionState.ENDING: {SessionState.CLOSED},
    SessionState.CLOSED: set(),
}


class ClientStream(Protocol):
    """The session's connection to its client."""

    @property
    def is_local(self) -> bool:
        """Whether it is a Unix socket: the gateway, or a client of this user."""

    @property
    def peer(self) -> str:
        """The client's address, for the log."""

    @property
    def write_blocked(self) -> bool:
        """Whether the client does not read its answers."""

    @property
    def paused(self) -> bool:
        """Whether the client is not read."""

    def write(self, data: bytes) -> None: ...
    def pause(self) -> None: ...
    def unpause(self) -> None: ...
    def close(self, *, linger: bool) -> None:
        """Closes. With `linger` the client may finish sending, to read the reason."""


class LongCommand(Protocol):
    """A command that takes time. It calls `begin` of the session, and `finish` when it is over."""

    @property
    def outlives_eof(self) -> bool:
        """Whether it goes on when the client sends no more."""

    def writable(self) -> None:
        """The client reads its answers again."""

    def cancel(self) -> None:
        """The session is over."""


class Session:
    """One client. `execute` runs a command on it (memcache/commands.py)."""

    __slots__ = (
        "_deferred",
        "_execute",
        "_half_closed",
        "_refused",
        "_resuming",
        "_running",
        "answers",
        "broker",
        "decoder",
        "has_run",
        "reads",
        "state",
        "stream",
        "unsettled_puts",
    )

    def __init__(self, broker: Broker, stream: ClientStream, execute: Callable[[Session, Command], None]) -> None:
        # process
        self.broker = broker
        self._execute = execute
        # connection
        self.stream = stream
        self.decoder = Decoder(broker.options.max_item_bytes)
        self.answers = Answers()
        self.reads = ClientReads(broker.options.max_open_reads)
        self.state = SessionState.READY
        self.has_run = False  # whether there was a command
        self.unsettled_puts: list[Ticket] = []  # of its sets, until they are committed; each once
        self._resuming = False
        self._refused = False  # it ends because of its bytes, and the client may still be sending
        self._half_closed = False  # the client sends no more, and a long answer is being sent
        # command
        self._deferred: Command | None = None
        self._running: LongCommand | None = None

    def __repr__(self) -> str:
        return f"<Session {self.state.name} held={len(self.answers)} reads={len(self.reads)}>"

    # Running commands

    def work(self) -> None:
        """Runs the commands that the client has sent, while it may."""
        answers, stream = self.answers, self.stream
        while self.state is SessionState.READY and not stream.write_blocked:
            command = self._deferred
            if command is None:
                command = self.decoder.next()
                if command is None:
                    break
            else:
                self._deferred = None
            self.has_run = True
            self._execute(self, command)
            if answers.ready_bytes > WRITE_BYTES:
                self.write()
            if answers.held and answers.full:
                self.wait_for_commit(None)
        if answers.ready_bytes:
            self.write()
        if stream.paused and self.state is SessionState.READY and not stream.write_blocked:
            stream.unpause()

    def resume(self) -> None:
        """Continues with what the client has sent, when its turn comes; never while a queue serves waiters."""
        if self._half_closed:
            self.work()
            self.eof()
            return
        self.write()
        if not self._resuming and (self.decoder.buffered or self._deferred is not None or self.stream.paused):
            self._resuming = True
            self.broker.loop.call_soon(self._resumed)

    def _resumed(self) -> None:
        self._resuming = False
        if self.state is SessionState.READY:
            self.work()

    def wait_for_commit(self, command: Command | None) -> None:
        """Runs nothing more until the held answers are sent; then runs `command`."""
        if self.state is SessionState.READY:
            self._deferred = command
            if self.answers.held:
                self._move(SessionState.WAITING_FOR_COMMIT)

    def begin(self, command: LongCommand) -> None:
        """Runs nothing more until this command is over."""
        self._running = command
        self._move(SessionState.RUNNING)
        if self.decoder.buffered > READ_LIMIT and not command.outlives_eof:
            self.stream.pause()

    def runs(self, command: LongCommand) -> bool:
        return self._running is command

    def finish(self) -> None:
        """The long command is over; its last answer follows."""
        self._running = None
        self._move(SessionState.READY)

    def writable(self) -> None:
        """The client reads its answers again."""
        self.resume()
        if self._running is not None:
            self._running.writable()

    def _move(self, state: SessionState) -> None:
        check_move("a session", _MOVES, self.state, state)
        self.state = state

    # Answers

    def hold(self, ticket: Ticket | None, data: bytes, item_id: int = 0) -> None:
        """Sends the data when the ticket is settled; SERVER_ERROR and close if that failed.

        `item_id`: of the item in the answer; NOT_STORED if the disk could not store just that item.
        """
        if ticket is None:
            self.answers.add(data)
        elif ticket.done and ticket.error is not None:
            self.fail(ticket.error)
        elif ticket.done:
            self.answers.add_settled(ticket, data, item_id)
        else:
            self.answers.hold(ticket, data, self, item_id)

    def release(self) -> None:
        """A ticket was settled: sends the answers that waited for it."""
        if self.unsettled_puts:
            self.unsettled_puts = [ticket for ticket in self.unsettled_puts if not ticket.done]
        error = self.answers.release()
        if error is not None:
            self.fail(error)
            return
        self.write()
        if self.answers.held:
            return
        if self.state is SessionState.ENDING:
            self.close(linger=self._refused)
        elif self.state is SessionState.WAITING_FOR_COMMIT:
            self._move(SessionState.READY)
            self.resume()

    def write(self) -> None:
        """Writes the answers that wait for nothing."""
        if self.answers.ready_bytes and self.state is not SessionState.CLOSED:
            self.stream.write(self.answers.take())

    def deliver(self, name: bytes, item: StoredItem, ticket: Ticket | None) -> None:
        """Sends the item of that queue, when the ticket is settled."""
        self.broker.counters.get_hits += 1
        answer = value(name, item.data)
        if ticket is None:
            self.answers.add(answer)
        else:
            self.hold(ticket, answer)

    def miss(self) -> None:
        """The answer of a get that found nothing."""
        self.broker.counters.get_misses += 1
        self.answers.add(END)

    # The end

    def fail(self, why: str) -> None:
        """Sends SERVER_ERROR and closes the connection."""
        self.end(b"SERVER_ERROR " + why.encode("utf-8", "replace").replace(b"\r", b" ").replace(b"\n", b" ") + b"\r\n")

    def end(self, data: bytes) -> None:
        """The last answer: closes the connection after the held answers. Further commands are not run."""
        if data:
            self.answers.add(data)
        if self.answers.held and self.state in (SessionState.READY, SessionState.WAITING_FOR_COMMIT):
            self._refused = bool(data)
            self._move(SessionState.ENDING)
        else:
            self.write()
            self.close(linger=bool(data))

    def eof(self) -> bool:
        """A client that only shut down its sending side still gets the answers to its commands, but its waits end.

        Returns whether an answer is still to come; otherwise the session is closed.
        """
        if self._running is not None and self._running.outlives_eof:
            self._half_closed = True
            return True
        if self.answers.held and self.state in (SessionState.READY, SessionState.WAITING_FOR_COMMIT):
            self._move(SessionState.ENDING)
            return True
        self.close()
        return False

    def stop(self) -> None:
        """The server stops: sends the held answers first."""
        if self.state in (SessionState.READY, SessionState.WAITING_FOR_COMMIT) and self.answers.held:
            self._move(SessionState.ENDING)
        elif self.state is not SessionState.ENDING:
            self.close()

    def close(self, *, linger: bool = False) -> None:
        """Ends its long command and gives open reads back now, and closes the connection."""
        if self.state is SessionState.CLOSED:
            return
        if self._running is not None:
            self._running.cancel()
            self._running = None
        self.state = SessionState.CLOSED
        self.answers.clear()
        self._deferred = None
        self.reads.give_back_all()
        self.stream.close(linger=linger)
