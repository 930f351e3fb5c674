"""One Kestrel server: whether it answers, what it supports, and commands on its connections.

Owns its pool and its state. Its Liveness decides when it is asked, pinged and tried again. Does not know queues, polls
or other servers.

1. UP, READONLY, QUIESCENT: a connection was made and answered, and `status` says which. DOWN: the last connection ended
   (except by a refusal, which is an answer), or an answer did not come in time. Each change is one log line.
2. While it is DOWN nothing is sent to it: callers share the attempt to connect and its error.
3. Commands of the pool use at most as many connections as the pool keeps; others wait for their turn.
4. `heard_at` is the loop time of its last complete answer, of any kind, on any connection.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection
from typing import Any

from pymemcache.exceptions import MemcacheError, MemcacheServerError

from gateway.errors import BackendRefused, BackendUnavailable
from gateway.fairness.shares import WHOLE
from gateway.kestrel.address import Address
from gateway.kestrel.counters import Counters
from gateway.kestrel.health import BY_STATUS, Health, ServerView
from gateway.kestrel.server.handshake import introduce
from gateway.kestrel.server.liveness import PING_AFTER_S, Liveness
from gateway.kestrel.server.pool import Pool
from gateway.kestrel.server.room import ServerRoom
from gateway.kestrel.wire.capabilities import Capabilities
from gateway.kestrel.wire.codec import Codecs, KestrelClient
from gateway.kestrel.wire.connection import Command, Connection, ConnectionLostError, State
from gateway.kestrel.wire.failures import not_asked
from gateway.settings import Settings

log = logging.getLogger(__name__)

LONGEST_WAIT_S = 30.0
"""The longest wait of a get, however many queues are polled; half of the idle timeout if that is less."""


class Server:
    """Commands on one server's connections.

    on_change: called at each change of its state. on_room, share: see ServerRoom. peer: the address that answers, see
    Connection.peer.
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
        self.timeout_s = settings.kestrel_command_timeout_s
        self.capabilities: Capabilities | None = None
        self.peer = ""
        self.state = Health.CONNECTING
        self.answers = self.reads = False
        self._settings = settings
        self._codecs = codecs
        self._counters = counters
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self.heard_at = -math.inf
        self._pool = Pool(self._loop, settings.kestrel_pool_size, self._connect)
        self._pool.suspend()
        self._turns = asyncio.Semaphore(settings.kestrel_pool_size)
        self._connections: set[Connection] = set()
        self.room = ServerRoom(settings.max_server_leases, settings.max_waits, share, on_room)
        self._version = ""
        self._since = time.time()
        self._error = BackendUnavailable(f"{address.marked} has not answered yet")
        self._said = Health.CONNECTING
        self._spared = False
        # the end
        self._leaving = False
        self._left = asyncio.Event()
        idle_s = settings.kestrel_idle_timeout_s
        self._liveness = Liveness(self, counters, min(PING_AFTER_S, idle_s / 3) if idle_s else PING_AFTER_S)
        self.longest_wait_s = min(LONGEST_WAIT_S, idle_s / 2) if idle_s else LONGEST_WAIT_S

    def __repr__(self) -> str:
        return f"<Server {self.address} {self.state.value}, {len(self._connections)} connections>"

    @property
    def error(self) -> BackendUnavailable:
        """Why it does not answer, as a new error to raise."""
        error = type(self._error)(self._error.detail)
        error.__cause__ = self._error.__cause__
        return error

    def backend(self) -> ServerView:
        """Its state, as `/backends` shows it."""
        return ServerView(
            server=self.address.name,
            address=str(self.address),
            state=self.state,
            since=self._since,
            version=self._version,
            capabilities=self.capabilities,
            connections=self.connections(),
            last_error=self._error.detail if self.state is not Health.UP else "",
            leaving=self._leaving,
            full=self.room.full_for_any,
        )

    def connections(self) -> dict[str, int]:
        """The number of connections by state."""
        counts = {State.CONNECTING.value: self._pool.opening}
        for connection in self._connections:
            counts[connection.state.value] = counts.get(connection.state.value, 0) + 1
        return counts

    def start(self) -> None:
        """Starts connecting in the background."""
        self._liveness.start(f"liveness of {self.address}")

    async def tried(self) -> None:
        """Returns when the first attempt to connect has ended, well or not."""
        await self._liveness.tried.wait()

    async def leave(self) -> None:
        """Returns when the server has no open read: it gets no new commands, and open reads end in their own time.

        Cancelled: `close` ends them.
        """
        self._leaving = True
        self._liveness.connect_no_more()
        self._pool.empty()
        for connection in [each for each in self._connections if each.state is State.IDLE]:
            connection.close()
        if self._connections:
            await self._left.wait()

    async def close(self) -> None:
        """Closes everything; open reads go back by that."""
        self.state = Health.CLOSED
        self.answers = self.reads = False
        self._error = BackendUnavailable("the gateway is shutting down")
        await self._liveness.close()
        await self._pool.close(self._error)
        for connection in list(self._connections):
            connection.close(ConnectionLostError("the gateway is shutting down"))

    # Lending connections

    def checkout(self) -> Connection | None:
        """An idle connection, which is now the caller's, or None."""
        return self._pool.checkout() if self.answers else None

    def want(self, tenant: str = "") -> asyncio.Future[Connection]:
        """A future of a connection; see Pool.want. Refused at once if an attempt to connect has just failed."""
        if not self.answers and not self._liveness.try_now():
            future: asyncio.Future[Connection] = self._loop.create_future()
            future.set_exception(self.error)
            return future
        return self._pool.want(tenant)

    async def acquire(self) -> Connection:
        """An idle connection, which is now the caller's.

        Raises: BackendUnavailable; nothing was sent. Cancelled: a connection that was being opened stays in the pool.
        """
        while True:
            if (connection := self.checkout()) is not None:
                return connection
            connection = await self._granted(self.want())
            if connection.state is State.IDLE:
                return connection

    async def _granted(self, future: asyncio.Future[Connection]) -> Connection:
        timer = self._loop.call_later(self._settings.kestrel_connect_timeout_s, self._give_up, future)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._pool.release(future.result())
            raise
        finally:
            timer.cancel()

    @property
    def open_connections(self) -> Collection[Connection]:
        """Every connection to it, idle or in use."""
        return self._connections

    def checkout_this(self, connection: Connection) -> bool:
        """Takes this connection for the caller. Returns False if it was not idle."""
        return connection.state is State.IDLE and self._pool.remove(connection)

    def release(self, connection: Connection) -> None:
        """Takes an idle or closed connection back."""
        self._pool.release(connection)

    async def run(self, command: Command, *args: Any) -> Any:
        """Runs a KestrelClient method on a connection of the pool.

        Raises: BackendUnavailable if nothing was sent; ConnectionLostError or a MemcacheError after that.
        Cancelled: the connection is closed; the command may have taken effect.
        """
        if not self.answers:
            return await self._run(command, args)
        async with self._turns:
            return await self._run(command, args)

    async def _run(self, command: Command, args: tuple[Any, ...]) -> Any:
        connection = self.checkout() or await self.acquire()
        value = await connection.call(self.timeout_s, command, *args)
        self._pool.release(connection)
        return value

    async def ask(self, command: Command, *args: Any) -> Any:
        """Like `run` for a command that can be repeated: it is tried once more if its connection turns out to be dead.

        Raises BackendUnavailable.
        """
        for again in (True, False):
            try:
                return await self.run(command, *args)
            except ConnectionLostError as error:
                if not again or error.timed_out:
                    raise not_asked(error, self.address) from error
            except MemcacheError as error:
                raise not_asked(error, self.address) from error
        raise AssertionError("unreachable")

    # Whether it answers

    def _give_up(self, future: asyncio.Future[Connection]) -> None:
        if not future.done():
            error = None if self.answers else self.error
            future.set_exception(error or BackendUnavailable(f"no connection to {self.address.marked} in time"))

    async def try_connect(self) -> None:
        """Connects, and learns the server's state. Raises BackendUnavailable. Called by its Liveness."""
        try:
            connection, health = await self._introduce()
        except BackendUnavailable as error:
            self._go_down(error)
            self._pool.fail(error)
            raise
        self._pool.resume()
        self._set_state(self._as_said(health))
        self._pool.release(connection)
        self._on_change(self)

    async def _introduce(self) -> tuple[Connection, Health]:
        """A new connection that has answered, and the server's state. Raises BackendUnavailable."""
        try:
            known = await introduce(self._connect, self.timeout_s)
        except (ConnectionLostError, MemcacheError) as error:
            raise not_asked(error, self.address) from error
        self._version, self.capabilities, self.peer = known.version, known.capabilities, known.connection.peer
        return known.connection, known.health

    def _go_down(self, error: BackendUnavailable) -> None:
        self._error = error
        self._pool.suspend()
        if self.state is not Health.DOWN:
            self._set_state(Health.DOWN)
            self._on_change(self)

    def _set_state(self, state: Health) -> None:
        if state is Health.DOWN:
            log.warning("Kestrel at %s is lost: %s", self.address, self._error.detail)
        elif state is Health.UP:
            log.info("Kestrel at %s is up (%s)", self.address, self._version)
        else:
            self._error = BackendRefused(f"{self.address.marked} is {state.value}" + self._why(state))
            log.warning("Kestrel at %s is %s (%s)", self.address, state.value, self._version)
        self.state = state
        self.answers, self.reads = state.answers, state.reads
        self._since = time.time()
        self._liveness.changed()

    # Its state while it answers

    def look(self) -> None:
        """Asks for its status, soon after it has refused something. The caller does not wait for the answer."""
        self._liveness.now()

    async def set_status(self, status: Health) -> None:
        """Sets its status. Raises: BackendRefused if it keeps another one; what `run` raises."""
        await self.run(KestrelClient.set_status, status.value)
        said = BY_STATUS[await self.ask(KestrelClient.ask_status)]
        self.has_said(said)
        if said is not status:
            raise BackendRefused(f"{self.address.marked} stays {said.value}: an earlier change is still in progress")

    def spare_writes(self, spared: bool) -> None:
        """Whether it must not be written to although it accepts items: then it counts as READONLY."""
        if spared is not self._spared:
            self._spared = spared
            self.has_said(self._said)

    def _as_said(self, said: Health) -> Health:
        self._said = said
        return Health.READONLY if self._spared and said is Health.UP else said

    def _why(self, state: Health) -> str:
        return ": it is registered for reading only" if state is not self._said else ""

    def has_said(self, said: Health) -> None:
        """The server's answer to `status`."""
        state = self._as_said(said)
        if self.answers and self.state is not state:
            self._set_state(state)
            self._on_change(self)

    # Connections

    async def _connect(self) -> Connection:
        """A new idle connection. Raises BackendUnavailable. Cancelled: it is closed."""
        connection = Connection(self._loop, self._codecs, self._counters, self._closed, self._heard)
        address = self.address
        try:
            async with asyncio.timeout(self._settings.kestrel_connect_timeout_s):
                if address.path:
                    await self._loop.create_unix_connection(lambda: connection, address.path)
                else:
                    await self._loop.create_connection(lambda: connection, address.host, address.port)
        except (OSError, TimeoutError) as error:
            self._counters.connect_failures += 1
            connection.close()
            trouble = not_asked(error, address)
            if self.answers and not self._connections:
                self._go_down(trouble)
            raise trouble from error
        except asyncio.CancelledError:
            connection.close()
            raise
        if connection.state is not State.IDLE:
            raise BackendUnavailable(f"{address.marked} closed the connection at once")
        self._counters.connects += 1
        self._connections.add(connection)
        return connection

    def _heard(self, now: float) -> None:
        self.heard_at = now

    def _closed(self, connection: Connection, error: BaseException) -> None:
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        self._pool.remove(connection)
        if self._leaving and not self._connections:
            self._left.set()
        if not self.answers:
            return
        timed_out = isinstance(error, ConnectionLostError) and error.timed_out
        if timed_out or (not self._connections and not _says_nothing(error)):
            self._go_down(not_asked(error, self.address))


def _says_nothing(error: BaseException) -> bool:
    """Whether the end of a connection tells nothing about the server: this worker ended it, or the server refused."""
    return isinstance(error, MemcacheServerError) or (isinstance(error, ConnectionLostError) and error.ours)
