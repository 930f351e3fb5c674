"""State that all connections of one server share: their limits, the Date header, and which ones are open."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.http.idle import Idle
from gateway.http.tcp import Options
from gateway.nonce import nonce

if TYPE_CHECKING:
    from gateway.http.connection import GatewayProtocol


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits for one client. Sizes in bytes, times in seconds."""

    header_bytes: int
    header_timeout_s: float
    body_timeout_s: float
    keep_alive_s: float
    connections: int
    tcp: Options


class LimitedConfig(Config):
    """uvicorn's Config with our limits. The server passes it to every protocol that it makes."""

    def __init__(self, app: Any, limits: Limits, **options: Any) -> None:
        super().__init__(app, **options)
        self.limits = limits


class DatedState(ServerState):
    """The shared state of one server's connections.

    idle: connections without a request. date_line: the Date header of every answer. kept_lines: the headers of an
    answer that is not its connection's last; they announce how long the connection may be idle. draining: every answer
    is its connection's last.
    """

    def __init__(self, idle: Idle, keep_alive_s: float) -> None:
        super().__init__()
        self.idle = idle
        self.date_line = b""
        self.kept_lines = b"connection: keep-alive\r\nkeep-alive: timeout=%d\r\n" % keep_alive_s
        self.draining = False
        self._changed = asyncio.Event()

    def one_answered(self) -> None:
        """A response is complete."""
        self.total_requests += 1
        self._changed.set()

    def one_closed(self, connection: GatewayProtocol) -> None:
        """A connection is lost."""
        self.connections.discard(connection)
        self.idle.remove(connection)
        self._changed.set()

    async def change(self) -> None:
        """Returns after the next response or closed connection."""
        self._changed.clear()
        await self._changed.wait()

    async def all_closed(self) -> None:
        """Returns when no connection is left."""
        while self.connections:
            await self.change()


def new_request_id() -> str:
    """16 random hexadecimal digits."""
    return nonce()[:8].hex()
