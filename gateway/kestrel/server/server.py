"""One Kestrel server: puts its parts together, and connects, leaves and closes.

Its parts: `health` (its state, and why), `connections` (those that are open), `commands` (lends connections, and runs
commands on them), `room` (items and gets by tenant), and a Liveness, which decides when the server is asked, pinged
and tried again. Knows queues only by `delivers`; knows no polls and no other servers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from pymemcache.exceptions import MemcacheError

from gateway.common.shares import WHOLE
from gateway.errors import BackendUnavailable
from gateway.kestrel.address import Address
from gateway.kestrel.counters import Counters
from gateway.kestrel.health import ServerHealth, ServerView
from gateway.kestrel.server.commands import ServerCommands
from gateway.kestrel.server.handshake import Introduction, introduce
from gateway.kestrel.server.liveness import PING_AFTER_S, Liveness
from gateway.kestrel.server.open_connections import OpenConnections
from gateway.kestrel.server.pool import Pool
from gateway.kestrel.server.room import ServerRoom
from gateway.kestrel.wire.codec import Codecs
from gateway.kestrel.wire.connection import Connection, ConnectionLostError, ConnectionState
from gateway.kestrel.wire.failures import not_asked
from gateway.names.namespace import FANOUT
from gateway.settings import Settings

LONGEST_WAIT_S: Final = 30.0
"""The longest wait of a get, however many queues are polled; half of the idle timeout if that is less."""


class Server:
    """One server.

    open_reads: how many a connection may have of one queue, as far as is known.
    on_change: called at each change of its state. on_room, share: see ServerRoom.
    """

    def __init__(
        self,
        address: Address,
        settings: Settings,
        codecs: Codecs,
        counters: Counters,
        *,
        on_change: Callable[[Server], None],
        on_room: Callable[[], None],
        share: float = WHOLE,
    ) -> None:
        self.address = address
        self.open_reads = settings.kestrel_open_reads
        self.timeout_s = settings.kestrel_command_timeout_s
        idle_s = settings.kestrel_idle_timeout_s
        self.longest_wait_s = min(LONGEST_WAIT_S, idle_s / 2) if idle_s else LONGEST_WAIT_S
        self.withholds: Callable[[str], bool] = lambda _: False
        self._counters = counters
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._leaving = False
        self._storing: set[asyncio.Task[None]] = set()  # puts that were started
        self.health = ServerHealth(address, self._changed)
        self.room = ServerRoom(settings.max_server_leases, settings.max_waits, share, on_room)
        self.connections = OpenConnections(
            address, settings.kestrel_connect_timeout_s, codecs, counters, self.health, self._connection_ended
        )
        self._pool = Pool(self._loop, settings.kestrel_pool_size, self.connections.connect)
        self._pool.suspend()
        self._liveness = Liveness(self, counters, min(PING_AFTER_S, idle_s / 3) if idle_s else PING_AFTER_S)
        self.commands = ServerCommands(address, settings, self._pool, self.health, self._liveness.try_now)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address} {self.health.state.value}, {len(self.connections)} connections>"

    def backend(self) -> ServerView:
        """Its state, as `/backends` shows it."""
        health = self.health
        return ServerView(
            server=self.address.name,
            address=str(self.address),
            state=health.state,
            since=health.since,
            version=health.version,
            capabilities=health.capabilities,
            connections=self.count_connections(),
            last_error=health.last_error,
            leaving=self._leaving,
            full=self.room.full_for_any,
        )

    def count_connections(self) -> dict[str, int]:
        """The number of connections by state."""
        return {ConnectionState.CONNECTING.value: self._pool.opening} | self.connections.by_state()

    def start(self) -> None:
        """Starts connecting in the background."""
        self._liveness.start(f"liveness of {self.address}")

    async def tried(self) -> None:
        """Returns when the first attempt to connect has ended, well or not."""
        await self._liveness.tried.wait()

    def delivers(self, key: str) -> bool:
        """Whether polls may get items of the queue."""
        return self.health.reads and not (FANOUT in key and self.withholds(key))

    def look(self) -> None:
        """Asks for its status, soon after it has refused something. The caller does not wait for the answer."""
        self._liveness.now()

    async def leave(self) -> None:
        """Returns when the server has no open read: it gets no new commands, and open reads end in their own time.

        Cancelled: `close` ends them.
        """
        self._leaving = True
        self._liveness.connect_no_more()
        self._pool.empty()
        await self.connections.drain()

    async def close(self) -> None:
        """Closes everything; open reads go back by that."""
        error = BackendUnavailable("the gateway is shutting down")
        self.health.close(error)
        await self._liveness.close()
        await self._pool.close(error)
        self.connections.close()

    async def try_connect(self) -> None:
        """Connects, and learns the server's state. Raises BackendUnavailable. Called by its Liveness."""
        try:
            known = await self._introduce()
        except BackendUnavailable as error:
            self.health.lost(error)
            self._pool.fail(error)
            raise
        self._pool.resume()
        self._pool.release(known.connection)
        self.health.introduced(known.version, known.capabilities, known.connection.peer, known.health)

    async def _introduce(self) -> Introduction:
        """A new connection that has answered, and what it answered. Raises BackendUnavailable."""
        try:
            return await introduce(self.connections.connect, self.timeout_s)
        except (ConnectionLostError, MemcacheError) as error:
            raise not_asked(error, self.address) from error

    def _connection_ended(self, connection: Connection) -> None:
        self._pool.remove(connection)

    def _changed(self) -> None:
        if not self.health.answers:
            self._pool.suspend()
        self._liveness.changed()
        self._on_change(self)
