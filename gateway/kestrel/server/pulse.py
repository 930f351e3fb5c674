"""The time of a server's last answer, and the question that finds out whether it still answers.

Owns that question: one at a time, which all callers share. It has the time limit of any command, so a frozen server
becomes DOWN by it. Does not know what an answer proves.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from gateway.errors import BackendUnavailable
from gateway.kestrel.wire.codec import KestrelClient
from gateway.kestrel.wire.connection import Connection, State


class Asked(Protocol):
    """What a pulse needs of its server."""

    timeout_s: float

    def checkout(self) -> Connection | None: ...
    def want(self) -> asyncio.Future[Connection]: ...
    def release(self, connection: Connection) -> None: ...


class Pulse:
    """heard_at: the loop time of the server's last clean answer, of any kind."""

    __slots__ = ("_asking", "_listeners", "_loop", "_server", "heard_at")

    def __init__(self, server: Asked, loop: asyncio.AbstractEventLoop) -> None:
        self.heard_at = -math.inf
        self._server = server
        self._loop = loop
        self._listeners: dict[Callable[[], None], None] = {}
        self._asking = False

    def beat(self, now: float) -> None:
        """The server has answered."""
        self.heard_at = now
        if self._listeners:
            listeners, self._listeners = self._listeners, {}
            for listener in listeners:
                self._loop.call_soon(listener)

    def ask(self, then: Callable[[], None]) -> None:
        """Asks the server, and calls `then` when it has answered something after this call. Each `then` is called
        once."""
        self._listeners[then] = None
        if self._asking:
            return
        self._asking = True
        if (connection := self._server.checkout()) is not None:
            self._send(connection)
        else:
            self._server.want().add_done_callback(self._granted)

    def _granted(self, future: asyncio.Future[Connection]) -> None:
        if future.cancelled() or isinstance(future.exception(), BackendUnavailable):
            self._asking = False
        else:
            self._send(future.result())

    def _send(self, connection: Connection) -> None:
        if connection.state is State.IDLE:
            connection.start(partial(self._over, connection), self._server.timeout_s, KestrelClient.ask_version)
        else:
            self._asking = False

    def _over(self, connection: Connection, _value: Any, _error: BaseException | None) -> None:
        self._asking = False
        self._server.release(connection)
