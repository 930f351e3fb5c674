"""The connection of one memcache client: bounds what is buffered for it, and notices when it is gone or silent.

The session runs the commands. A client that sends while none may run is not read once READ_LIMIT bytes wait.
"""

from __future__ import annotations

import asyncio
import select
import socket
from typing import Any

from gateway.broker.broker import Broker
from gateway.broker.connections import Connections
from gateway.broker.memcache.commands import execute
from gateway.broker.memcache.session import READ_LIMIT, Session, SessionState
from gateway.broker.memory import SMALL_BYTES
from gateway.common import net

_LINGER_S = 1.0
"""A close with unread bytes is a reset, which can destroy the last answer."""
_TCP_OPTIONS = net.keepalive(idle_s=60, interval_s=10, probes=3)
"""A client whose host died gives its open reads back after 90 s, not after the kernel's two hours."""


class MemcacheConnection(asyncio.Protocol):
    """One client's socket."""

    __slots__ = (
        "_broker",
        "_connections",
        "_had_command",
        "_kept",
        "_session",
        "_transport",
        "active_s",
        "is_local",
        "paused",
        "write_blocked",
    )

    def __init__(self, broker: Broker, connections: Connections) -> None:
        self._broker = broker
        self._connections = connections
        self._transport: Any = None
        self._session = Session(broker, self, execute)
        self.is_local = False  # a Unix socket: the gateway, or a client of this user; not limited
        self.active_s = broker.loop.time()
        self.write_blocked = False  # the client does not read its answers
        self.paused = False  # the client is not read
        self._had_command = False
        self._kept = 0  # bytes, as last reported to the limit

    def __repr__(self) -> str:
        return f"<MemcacheConnection {self._session!r}>"

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        sock = transport.get_extra_info("socket")
        self.is_local = sock.family == socket.AF_UNIX
        if not self.is_local:
            net.set_options(sock, _TCP_OPTIONS)
        self._connections.opened(self)

    def data_received(self, data: bytes) -> None:
        session = self._session
        if session.state is SessionState.CLOSED:
            return
        self._broker.counters.bytes_read += len(data)
        self.active_s = self._broker.loop.time()
        decoder = session.decoder
        decoder.feed(data)
        if session.state is SessionState.READY and not self.write_blocked:
            session.work()
            if not self._had_command and session.has_run:
                self._had_command = True
                self._connections.first_command(self)
        elif decoder.buffered > READ_LIMIT:
            self.pause()
        if self._kept or decoder.buffered > SMALL_BYTES:
            self._count()

    def eof_received(self) -> bool:
        return self._session.eof()

    def connection_lost(self, _: Exception | None) -> None:
        self._session.close()
        self.write_blocked = False
        self._session.decoder.close()
        self._count()
        self._connections.lost(self)

    def pause_writing(self) -> None:
        self.write_blocked = True
        self.pause()
        self._broker.loop.call_soon(self._count)  # inside a write: unsent bytes are not in the buffer yet

    def resume_writing(self) -> None:
        self.write_blocked = False
        self._count()
        self._session.writable()

    # Called by the session

    @property
    def peer(self) -> str:
        """The client's address, for the log."""
        found = self._transport.get_extra_info("peername")
        return f"{found[0]}:{found[1]}" if isinstance(found, tuple) else "a Unix socket"

    def write(self, data: bytes) -> None:
        self._broker.counters.bytes_written += len(data)
        self.active_s = self._broker.loop.time()
        self._transport.write(data)

    def pause(self) -> None:
        """The client is not read until `unpause`."""
        if not self.paused and self._session.state is not SessionState.CLOSED:
            self.paused = True
            self._transport.pause_reading()

    def unpause(self) -> None:
        self.paused = False
        self._transport.resume_reading()

    def close(self, *, linger: bool) -> None:
        """Closes. With `linger` the client may finish sending, to read the reason."""
        transport = self._transport
        if linger and not transport.is_closing():
            transport.write_eof()
            if self.paused:
                transport.resume_reading()
            self._broker.loop.call_later(_LINGER_S, transport.close)
        else:
            transport.close()

    # Buffered bytes

    def _count(self) -> None:
        """Reports the bytes that are buffered for this client, which has just sent or read something."""
        size = self._session.decoder.buffered
        if self.write_blocked:
            size += self._transport.get_write_buffer_size()
        kept = size if size > SMALL_BYTES and not self.is_local else 0
        if kept or self._kept:
            self._kept = kept
            self._broker.memory.progress(self, kept)

    def drop(self) -> None:
        """There is no memory for its buffers: ends it at once. An incomplete item gets an answer; unread answers do
        not."""
        session = self._session
        self._kept = 0
        self._broker.client_log.dropped(self.peer, self._broker.memory.limit_bytes)
        half_sent = session.state is not SessionState.CLOSED and not self.write_blocked
        session.decoder.close()
        if half_sent:
            session.fail("out of memory for incomplete items; send it again later")
        else:
            session.close()
            self._transport.abort()

    # Called by the server

    def refuse(self, why: str) -> None:
        """There are too many connections."""
        self._session.fail(why)

    def disconnect(self) -> None:
        """It makes room for another connection."""
        self._session.end(b"")

    def check(self, quiet_since_s: float | None) -> None:
        """Called regularly: closes if the client disconnected while it was not read, or was idle for too long."""
        if self._session.state is SessionState.CLOSED:
            return
        if quiet_since_s is not None and self.active_s < quiet_since_s:
            self._session.close()
        elif self.paused:
            poll = select.poll()
            poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
            if poll.poll(0):
                self._session.close()

    def stop(self) -> None:
        """The server stops: sends the held answers first."""
        self._session.stop()
