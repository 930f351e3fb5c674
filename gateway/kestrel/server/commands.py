"""Commands to one server: lends the connections of its pool, and runs commands on them.

1. While the server does not answer, nothing is sent: callers share the attempt to connect and its error.
2. While the server answers, commands that `run` sends use at most `kestrel_pool_size` connections; others wait for
   their turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from pymemcache.exceptions import MemcacheError

from gateway.errors import BackendUnavailable
from gateway.kestrel.address import Address
from gateway.kestrel.health import ServerHealth
from gateway.kestrel.server.pool import Pool
from gateway.kestrel.wire.connection import Command, Connection, ConnectionLostError, ConnectionState
from gateway.kestrel.wire.failures import not_asked
from gateway.settings import Settings


class ServerCommands:
    """Commands on the connections of `pool`. may_connect: see Liveness.try_now."""

    def __init__(
        self,
        address: Address,
        settings: Settings,
        pool: Pool,
        health: ServerHealth,
        may_connect: Callable[[], bool],
    ) -> None:
        self._address = address
        self._timeout_s = settings.kestrel_command_timeout_s
        self._connect_timeout_s = settings.kestrel_connect_timeout_s
        self._pool = pool
        self._health = health
        self._may_connect = may_connect
        self._turns = asyncio.Semaphore(settings.kestrel_pool_size)
        self._loop = asyncio.get_running_loop()

    # Lending connections

    def checkout(self) -> Connection | None:
        """An idle connection, which is now the caller's, or None."""
        return self._pool.checkout() if self._health.answers else None

    def checkout_this(self, connection: Connection) -> bool:
        """Takes this connection for the caller. Returns False if it was not idle."""
        return connection.state is ConnectionState.IDLE and self._pool.remove(connection)

    def want(self, tenant: str = "") -> asyncio.Future[Connection]:
        """A future of a connection; see Pool.want. Refused at once if an attempt to connect has just failed."""
        if not self._health.answers and not self._may_connect():
            future: asyncio.Future[Connection] = self._loop.create_future()
            future.set_exception(self._health.error)
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
            if connection.state is ConnectionState.IDLE:
                return connection

    def release(self, connection: Connection) -> None:
        """Takes an idle or closed connection back."""
        self._pool.release(connection)

    async def _granted(self, future: asyncio.Future[Connection]) -> Connection:
        timer = self._loop.call_later(self._connect_timeout_s, self._give_up, future)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._pool.release(future.result())
            raise
        finally:
            timer.cancel()

    def _give_up(self, future: asyncio.Future[Connection]) -> None:
        if not future.done():
            error = None if self._health.answers else self._health.error
            future.set_exception(error or BackendUnavailable(f"no connection to {self._address.marked} in time"))

    # Commands

    async def run(self, command: Command, *args: Any) -> Any:
        """Runs a KestrelClient method on a connection of the pool.

        Raises: BackendUnavailable if nothing was sent; ConnectionLostError or a MemcacheError after that.
        Cancelled: the connection is closed; the command may have taken effect.
        """
        if not self._health.answers:
            return await self._run(command, args)
        async with self._turns:
            return await self._run(command, args)

    async def ask(self, command: Command, *args: Any) -> Any:
        """Like `run` for a command that can be repeated: it is tried once more if its connection turns out to be dead.

        Raises BackendUnavailable.
        """
        for again in (True, False):
            try:
                return await self.run(command, *args)
            except ConnectionLostError as error:
                if not again or error.timed_out:
                    raise not_asked(error, self._address) from error
            except MemcacheError as error:
                raise not_asked(error, self._address) from error
        raise AssertionError("unreachable")

    async def _run(self, command: Command, args: tuple[Any, ...]) -> Any:
        connection = self.checkout() or await self.acquire()
        value = await connection.call(self._timeout_s, command, *args)
        self._pool.release(connection)
        return value
