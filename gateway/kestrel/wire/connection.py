"""One connection to Kestrel: an explicit state machine with one owner, which runs one call at a time.

Owns the transport, the deadline of the running call and the detection of its end. Does not know which commands exist,
nor what happens to an idle connection: its owner decides that.

1. Everything but a clean answer closes the connection: an error, a deadline, a cancelled caller, unexpected bytes.
2. A closed connection calls back the caller of its call, the holder of its item, and its server, each once.
3. Closing takes effect at once and discards unsent bytes. The server then puts an open read back.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from enum import Enum
from typing import Any, cast

from gateway.common import net
from gateway.common.states import check_move
from gateway.kestrel.counters import Counters
from gateway.kestrel.wire.bridge import BridgeError, Phase
from gateway.kestrel.wire.codec import Codecs, KestrelClient

UNREAD_LIMIT_BYTES = 1 << 20
_TCP_OPTIONS = net.keepalive(idle_s=30, interval_s=10, probes=3)


class ConnectionState(Enum):
    """The states of a connection. PINNED: an item is set aside on it."""

    CONNECTING = "connecting"
    IDLE = "idle"
    BUSY = "busy"
    PINNED = "pinned"
    CLOSED = "closed"

    __hash__ = object.__hash__


MOVES: dict[ConnectionState, frozenset[ConnectionState]] = {
    ConnectionState.CONNECTING: frozenset({ConnectionState.IDLE, ConnectionState.CLOSED}),
    ConnectionState.IDLE: frozenset({ConnectionState.BUSY, ConnectionState.PINNED, ConnectionState.CLOSED}),
    ConnectionState.BUSY: frozenset({ConnectionState.IDLE, ConnectionState.PINNED, ConnectionState.CLOSED}),
    ConnectionState.PINNED: frozenset({ConnectionState.BUSY, ConnectionState.IDLE, ConnectionState.CLOSED}),
    ConnectionState.CLOSED: frozenset(),
}


class ConnectionLostError(Exception):
    """The connection ended before the answer was complete. `unsent`: the end of the command was certainly not sent.

    ours: the gateway itself ended the connection, so it tells nothing about the server.
    """

    def __init__(self, reason: str, *, timed_out: bool = False, ours: bool = False) -> None:
        super().__init__(reason)
        self.timed_out = timed_out
        self.ours = ours
        self.unsent = False


OnValue = Callable[[Any, BaseException | None], None]
Command = Callable[..., Any]


class Connection(asyncio.Protocol):
    """A connection to one server. Its owner is the caller that took it from the pool. on_answer: called at each
    answer."""

    __slots__ = (
        "_calm", "_client", "_codecs", "_counters", "_deadline", "_loop", "_on_answer", "_on_closed", "_on_lost",
        "_paused", "_rest", "_then", "_transport", "_unread", "quiet_since", "received", "state",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        codecs: Codecs,
        counters: Counters,
        on_closed: Callable[[Connection, BaseException], None],
        on_answer: Callable[[float], None] | None = None,
    ) -> None:
        # life of the connection
        self._loop = loop
        self._codecs = codecs
        self._counters = counters
        self._on_closed = on_closed
        self._on_answer = on_answer
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._unread = b""
        self.state = ConnectionState.CONNECTING
        self.quiet_since = loop.time()
        # while PINNED
        self._on_lost: Callable[[], None] | None = None
        # one call
        self._client: KestrelClient | None = None
        self._then: OnValue | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._rest = ConnectionState.IDLE
        self._calm: asyncio.Future[None] | None = None
        self.received = 0

    def __repr__(self) -> str:
        return f"<Connection {self.state.value}>"

    @property
    def peer(self) -> str:
        """The address of the other end: `host:port` in numbers, or the path of a socket; empty if unknown."""
        name = self._transport.get_extra_info("peername") if self._transport is not None else None
        return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else name or ""

    # Called by the owner

    def start(self, then: OnValue, timeout_s: float, command: Command, *args: Any) -> None:
        """Runs a KestrelClient method and calls `then(value, error)` once, possibly before this method returns.

        On an error the connection is already closed. Raises IllegalMoveError if a call is in progress or it is closed.
        """
        rest = self.state
        self._move(ConnectionState.BUSY)
        self._rest = rest
        self._then = then
        self.received = 0
        self._counters.commands += 1
        client = self._client = self._codecs.lend()
        client.sock = self
        self._deadline = self._loop.call_later(timeout_s, self._time_out)
        self._step(client, client.bridge.start, command, (client, *args))

    async def call(self, timeout_s: float, command: Command, *args: Any) -> Any:
        """Runs a KestrelClient method and returns its value.

        Raises what the method raises; ConnectionLostError if the connection or the time ended first, also before the
        call: the server may close it behind its last answer. Cancelled: the connection is closed.
        """
        self._require_open()
        future: asyncio.Future[Any] = self._loop.create_future()

        def then(value: Any, error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)

        self.start(then, timeout_s, command, *args)
        try:
            return await future
        except asyncio.CancelledError:
            self.close(ConnectionLostError("the caller was cancelled", ours=True))
            raise

    def pin(self, on_lost: Callable[[], None]) -> None:
        """The idle connection holds an item from now on. `on_lost` is called once if it closes before `unpin`."""
        self._move(ConnectionState.PINNED)
        self._on_lost = on_lost

    def unpin(self) -> None:
        """The item is settled: the connection is idle."""
        self._move(ConnectionState.IDLE)
        self._on_lost = None

    def disown(self) -> None:
        """Removes the callback for the end of the pinned connection."""
        self._on_lost = None

    async def calm(self) -> None:
        """Returns when no call is in progress. Cancelled: the call continues."""
        while self.state is ConnectionState.BUSY:
            if self._calm is None:
                self._calm = self._loop.create_future()
            await asyncio.shield(self._calm)

    def close(self, reason: BaseException | None = None) -> None:
        """Closes at once, in every state. Idempotent."""
        if self.state is ConnectionState.CLOSED:
            return
        was = self.state
        error = reason or ConnectionLostError("closed by the gateway", ours=True)
        self._move(ConnectionState.CLOSED)
        if self._transport is not None:
            if was is ConnectionState.BUSY and isinstance(error, ConnectionLostError):
                # Two bytes may be a trailer that a server sends late.
                error.unsent = self._transport.get_write_buffer_size() > 2
            self._transport.abort()
        client = self._client
        if client is not None and client.bridge.phase is Phase.WAITING:
            self._step(client, client.bridge.throw, error)
            if self._client is client:
                client.bridge.end()
                self._finish(client, None, error)
        if (on_lost := self._on_lost) is not None:
            self._on_lost = None
            on_lost()
        self._on_closed(self, error)

    # Called by the codec, inside its greenlet

    def sendall(self, data: bytes) -> None:
        """Passes all of `data` to the transport; waits while the transport's buffer is full."""
        self._require_open()
        assert self._transport is not None
        assert self._client is not None
        self._transport.write(data)
        while self._paused:
            self._client.bridge.wait()
            self._require_open()

    def recv(self, size: int) -> bytes:  # noqa: ARG002  (a socket's signature)
        """All received bytes, at least one. Ignores `size`, so that large items are not cut into pieces."""
        assert self._client is not None
        while not self._unread:
            self._require_open()
            self._client.bridge.wait()
        data, self._unread = self._unread, b""
        self.received += len(data)
        return data

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self.state is ConnectionState.CLOSED:
            self._transport.abort()
            return
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            net.set_options(sock, _TCP_OPTIONS)
        self._move(ConnectionState.IDLE)

    def data_received(self, data: bytes) -> None:
        if self.state is not ConnectionState.BUSY:
            self.close(ConnectionLostError("unexpected bytes"))
            return
        self._unread = self._unread + data if self._unread else data
        self._codecs.pace.add(self._read)

    def eof_received(self) -> None:
        self._read()
        self.close(ConnectionLostError("closed by Kestrel"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._read()
        self.close(ConnectionLostError(net.reason(exc) if exc else "closed by Kestrel"))
        self._transport = None

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._go_on()

    # Internal

    def _read(self) -> None:
        """Continues the call with what was received; does nothing if that was read already."""
        if not self._unread:
            return
        self._go_on()
        if len(self._unread) > UNREAD_LIMIT_BYTES:
            self.close(ConnectionLostError("an answer before the command was sent"))

    def _go_on(self) -> None:
        client = self._client
        if client is not None and client.bridge.phase is Phase.WAITING:
            self._step(client, client.bridge.resume)

    def _step(self, client: KestrelClient, step: Callable[..., bool], *args: Any) -> None:
        """Continues the call; finishes it when it has ended, however it ended."""
        bridge = client.bridge
        try:
            if not step(*args):
                return
        except BridgeError as broken:
            self._finish(client, None, broken)
            return
        value, error = bridge.value, bridge.error
        bridge.value = bridge.error = None
        self._finish(client, value, error)

    def _finish(self, client: KestrelClient, value: Any, error: BaseException | None) -> None:
        then, self._then = self._then, None
        deadline, self._deadline = self._deadline, None
        calm, self._calm = self._calm, None
        self._client = client.sock = None
        assert then is not None
        assert deadline is not None
        deadline.cancel()
        if error is None and (self._unread or self.state is ConnectionState.CLOSED):
            error = ConnectionLostError("more bytes than the answer" if self._unread else "closed by the gateway")
        if error is None:
            self._codecs.give_back(client)
            self._move(self._rest)
            self.quiet_since = self._loop.time()
            if self._on_answer is not None:
                self._on_answer(self.quiet_since)
        else:
            self._counters.command_failures += 1
            self.close(error)
            value = None
        if calm is not None and not calm.done():
            calm.set_result(None)
        then(value, error)

    def _time_out(self) -> None:
        deadline = self._deadline
        self._read()
        if self._deadline is deadline:  # the answer is still not there
            self.close(ConnectionLostError("no answer in time", timed_out=True))

    def _require_open(self) -> None:
        if self.state is ConnectionState.CLOSED:
            raise ConnectionLostError("the connection is closed")

    def _move(self, state: ConnectionState) -> None:
        if state not in MOVES[self.state]:
            check_move("a connection", MOVES, self.state, state)
        self.state = state
