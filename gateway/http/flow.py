"""Back-pressure of one connection: whether it reads, and whether its client reads what is written.

While the connection reads, the end of its client arrives as EOF or as an error. While reading is paused, the kernel is
asked for the client's state every WATCH_S.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final

from gateway.http import tcp

WATCH_S: Final = 1.0  # a client that leaves while reading is paused is noticed within this time
PROGRESS_BYTES: Final = 65536
"""A client that reads less of a response within the time limit has stalled."""


class Flow:
    """Pauses and resumes a transport's reading, and lets writers wait while too much is unsent.

    client_lost: called if the client is gone while reading is paused; the connection is then aborted. read_ended: the
    client has closed its sending side. write_paused: more is unsent than the transport should hold.
    """

    __slots__ = (
        "_client_lost",
        "_cut_off",
        "_loop",
        "_socket",
        "_transport",
        "_watch",
        "_writable",
        "read_ended",
        "read_paused",
        "write_paused",
    )

    def __init__(self, transport: asyncio.Transport, client_lost: Callable[[], None]) -> None:
        self._transport = transport
        self._client_lost = client_lost
        self._loop = asyncio.get_running_loop()
        self._watch: asyncio.TimerHandle | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._socket: Any = None
        self._cut_off = False  # the connection ended before all was sent
        self.read_ended = False
        self.read_paused = False
        self.write_paused = False

    def pause_reading(self, *, watch: bool = True) -> None:
        """Stops reading, and asks the kernel for the client's state instead. Does nothing after `read_ended`.

        watch: False while what has come is processed, also if the client has closed its side behind it.
        """
        if self.read_ended:
            return
        if not self.read_paused:
            self.read_paused = True
            self._transport.pause_reading()
        if self._watch is None and watch:
            self._watch = self._loop.call_later(WATCH_S, self._look)

    def resume_reading(self) -> None:
        """Reads again."""
        if self.read_paused:
            self.read_paused = False
            self._transport.resume_reading()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def client_closed(self, *, ask: bool = False) -> bool:
        """Whether the client has closed its side. Asks the kernel with `ask`, and while reading is paused."""
        if self.read_ended or self._transport.is_closing():
            return True
        return (ask or self.read_paused) and self._peer_closed()

    def _peer_closed(self) -> bool:
        if self._socket is None:
            self._socket = tcp.own_socket(self._transport.get_extra_info("socket"))
        return tcp.peer_closed(self._socket)

    def _look(self) -> None:
        if self._peer_closed():
            self._watch = None
            self._client_lost()
            self._transport.abort()
        else:
            self._watch = self._loop.call_later(WATCH_S, self._look)

    def pause_writing(self) -> None:
        """The transport holds too much."""
        self.write_paused = True
        self._writable.clear()

    def resume_writing(self) -> None:
        """The transport holds little, or no one waits for a client that is gone."""
        self.write_paused = False
        self._writable.set()

    async def writable(self) -> None:
        """Returns when the transport holds little, or no one waits for a client that is gone. Has no time limit."""
        await self._writable.wait()

    async def drained(self, limit_s: float) -> bool:
        """Returns when almost all bytes of the responses are sent. False if the client did not read them.

        The client must read PROGRESS_BYTES within `limit_s`, otherwise the connection is aborted.
        """
        transport = self._transport
        while self.write_paused:
            before = transport.get_write_buffer_size()
            try:
                async with asyncio.timeout(limit_s):
                    await self._writable.wait()
            except TimeoutError:
                if before - transport.get_write_buffer_size() < PROGRESS_BYTES:
                    transport.abort()
                    return False
        return not self._cut_off

    def close(self) -> None:
        """The connection has ended."""
        self._cut_off = self.write_paused
        self.resume_writing()
        self.read_ended = True
        if isinstance(self._socket, socket.socket):
            self._socket.detach()
        self._socket = None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        del self._client_lost  # it refers back to the connection
