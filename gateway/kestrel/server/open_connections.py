"""Every connection to one server, idle or in use: opens them, counts them, and tells the health how they ended.

1. The server is lost if its last connection has ended or cannot be made, or if an answer does not come in time. If the
   connection ended by a refusal, the server is not lost: a refusal is an answer.
2. `heard_at` is the loop time of the server's last complete answer, of any kind, on any connection.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator

from pymemcache.exceptions import MemcacheServerError

from gateway.errors import BackendUnavailable
from gateway.kestrel.address import Address
from gateway.kestrel.counters import Counters
from gateway.kestrel.health import ServerHealth
from gateway.kestrel.wire.codec import Codecs
from gateway.kestrel.wire.connection import Connection, ConnectionLostError, ConnectionState
from gateway.kestrel.wire.failures import not_asked


class OpenConnections:
    """The open connections. on_end: called with each one that has ended."""

    def __init__(  # noqa: PLR0917 (one caller)
        self,
        address: Address,
        connect_timeout_s: float,
        codecs: Codecs,
        counters: Counters,
        health: ServerHealth,
        on_end: Callable[[Connection], None],
    ) -> None:
        self.heard_at = -math.inf
        self._address = address
        self._connect_timeout_s = connect_timeout_s
        self._codecs = codecs
        self._counters = counters
        self._health = health
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._open: set[Connection] = set()
        self._drained: asyncio.Event | None = None

    def __iter__(self) -> Iterator[Connection]:
        return iter(self._open)

    def __len__(self) -> int:
        return len(self._open)

    def by_state(self) -> dict[str, int]:
        """The number of connections by state."""
        counts: dict[str, int] = {}
        for connection in self._open:
            counts[connection.state.value] = counts.get(connection.state.value, 0) + 1
        return counts

    async def connect(self) -> Connection:
        """A new idle connection. Raises BackendUnavailable. Cancelled: it is closed."""
        connection = Connection(self._loop, self._codecs, self._counters, self._ended, self.heard)
        address = self._address
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                if address.path:
                    await self._loop.create_unix_connection(lambda: connection, address.path)
                else:
                    await self._loop.create_connection(lambda: connection, address.host, address.port)
        except (OSError, TimeoutError) as error:
            self._counters.connect_failures += 1
            connection.close()
            trouble = not_asked(error, address)
            if self._health.answers and not self._open:
                self._health.lost(trouble)
            raise trouble from error
        except asyncio.CancelledError:
            connection.close()
            raise
        if connection.state is not ConnectionState.IDLE:
            raise BackendUnavailable(f"{address.marked} closed the connection at once")
        self._counters.connects += 1
        self._open.add(connection)
        return connection

    def heard(self, now: float) -> None:
        """The server has answered."""
        self.heard_at = now

    async def drain(self) -> None:
        """Closes the idle ones. Returns when the others have ended, too."""
        self._drained = asyncio.Event()
        for connection in [each for each in self._open if each.state is ConnectionState.IDLE]:
            connection.close()
        if self._open:
            await self._drained.wait()

    def close(self) -> None:
        """Closes all of them."""
        for connection in list(self._open):
            connection.close(ConnectionLostError("the gateway is shutting down"))

    def _ended(self, connection: Connection, error: BaseException) -> None:
        if connection not in self._open:
            return
        self._open.discard(connection)
        self._on_end(connection)
        if self._drained is not None and not self._open:
            self._drained.set()
        if not self._health.answers:
            return
        timed_out = isinstance(error, ConnectionLostError) and error.timed_out
        if timed_out or (not self._open and not _says_nothing(error)):
            self._health.lost(not_asked(error, self._address))


def _says_nothing(error: BaseException) -> bool:
    """Whether the end of a connection tells nothing about the server: this worker ended it, or the server refused."""
    return isinstance(error, MemcacheServerError) or (isinstance(error, ConnectionLostError) and error.ours)
