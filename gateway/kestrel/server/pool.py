"""The idle connections of one server, and those being opened. Lends, takes back, opens more.

Owns which caller gets which connection. Does not know commands, addresses or leases.

1. The connection used last is lent first, so that surplus connections stay idle.
2. At most CONNECTS_IN_FLIGHT connections are being opened; waiting callers share them: tenants in turns, each tenant's
   callers in order of arrival.
3. A small reserve stays ready, so that an item that pins a connection does not make the next caller wait. It is kept in
   addition to the `size` idle connections; otherwise it would be closed and opened again under load.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gateway.errors import BackendUnavailable
from gateway.fairness.fair_queue import FairQueue
from gateway.kestrel.wire.connection import Connection, ConnectionState
from gateway.kestrel.wire.failures import copied

CONNECTS_IN_FLIGHT = 32
RESERVE = 2


class Pool:
    """Lends connections that `connect` opens. `connect` raises BackendUnavailable."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, size: int, connect: Callable[[], Awaitable[Connection]]
    ) -> None:
        self._loop = loop
        self._size = size
        self._connect = connect
        self._idle: dict[Connection, None] = {}
        self._wanted: FairQueue[asyncio.Future[Connection]] = FairQueue()
        self._opening: set[asyncio.Task[None]] = set()
        self._suspended = False

    @property
    def opening(self) -> int:
        """How many connections are being opened."""
        return len(self._opening)

    def checkout(self) -> Connection | None:
        """An idle connection, which is now the caller's, or None."""
        if not self._idle:
            return None
        connection, _ = self._idle.popitem()
        if len(self._idle) < RESERVE:
            self._open_more()
        return connection

    def remove(self, connection: Connection) -> bool:
        """Removes the connection if it is idle. Returns whether it was; then it is the caller's."""
        return self._idle.pop(connection, connection) is None

    def want(self, tenant: str = "") -> asyncio.Future[Connection]:
        """A future of a connection, at the tenant's turn. Its caller owns the connection; a cancelled future gets none.

        Its exception: BackendUnavailable if connections cannot be opened. The connection may have closed since.
        """
        future: asyncio.Future[Connection] = self._loop.create_future()
        self._wanted.put(tenant, future)
        self._open_more()
        return future

    def release(self, connection: Connection) -> None:
        """Takes a connection back: for the next waiting caller, otherwise as a reserve. Closed ones are forgotten."""
        if connection.state is not ConnectionState.IDLE:
            connection.close()
            return
        while self._wanted:
            future = self._wanted.get()
            if not future.done():
                future.set_result(connection)
                return
        if self._size and len(self._idle) < self._size + RESERVE:
            self._idle[connection] = None
        else:
            connection.close()

    def suspend(self) -> None:
        """Opens none until `resume`: the server is down, and its Liveness tries to reach it."""
        self._suspended = True

    def resume(self) -> None:
        """Opens connections for waiting callers."""
        self._suspended = False
        self._open_more()

    def empty(self) -> None:
        """Keeps no connection from now on: released ones are closed. Server closes the idle ones through
        OpenConnections."""
        self._size = 0
        self.suspend()

    def fail(self, error: BackendUnavailable) -> None:
        """Refuses all waiting callers."""
        wanted, self._wanted = self._wanted, FairQueue()
        while wanted:
            future = wanted.get()
            if not future.done():
                future.set_exception(copied(error))

    async def close(self, error: BackendUnavailable) -> None:
        """Stops opening, and refuses waiting callers. Server closes the idle ones through OpenConnections."""
        self.suspend()
        opening = list(self._opening)
        for task in opening:
            task.cancel()
        self.fail(error)
        await asyncio.gather(*opening, return_exceptions=True)

    def _open_more(self) -> None:
        if self._suspended:
            return
        missing = len(self._wanted) + max(0, RESERVE - len(self._idle))
        while len(self._opening) < min(missing, CONNECTS_IN_FLIGHT):
            task = self._loop.create_task(self._open())
            self._opening.add(task)

    async def _open(self) -> None:
        try:
            connection = await self._connect()
        except BackendUnavailable as error:
            self._refuse_one(error)
        else:
            self.release(connection)
        finally:
            task = asyncio.current_task()
            assert task is not None
            self._opening.discard(task)
        if self._wanted:
            self._open_more()

    def _refuse_one(self, error: BackendUnavailable) -> None:
        while self._wanted:
            future = self._wanted.get()
            if not future.done():
                future.set_exception(copied(error))
                return
