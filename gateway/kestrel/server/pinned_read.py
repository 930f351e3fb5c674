"""An item that is set aside: one open read, which is one pinned connection.

Owns the outcome of the item: confirmed, given back, or lost with its connection. Knows no leases and no deadlines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pymemcache.exceptions import MemcacheError

from gateway.errors import GatewayError, LeaseLost, QueueDeleted
from gateway.kestrel.counters import Counters
from gateway.kestrel.server.read_of_server import ReadOfServer, ReadState
from gateway.kestrel.server.server import Server
from gateway.kestrel.server.shared_reads import SharedRead, SharedReads
from gateway.kestrel.wire.codec import KestrelClient
from gateway.kestrel.wire.connection import Command, Connection, ConnectionLostError, ConnectionState
from gateway.kestrel.wire.failures import LOST, not_confirmed
from gateway.kestrel.wire.stats import parse_open_reads


class PinnedRead(ReadOfServer):
    """One item and the connection on which it is set aside. The item goes back when that connection closes."""

    __slots__ = ("_connection",)

    keeps_order = False
    deleted = False
    """The server does not report that it has deleted an item with its queue."""

    def __init__(  # noqa: PLR0917 (one caller)
        self, server: Server, connection: Connection, counters: Counters, key: str, data: bytes, tenant: str
    ) -> None:
        super().__init__(server, counters, key, tenant, data, counters.items_taken)
        self._connection = connection
        connection.pin(self.lose)
        server.room.hold(tenant)

    async def verify(self) -> None:
        """Returns if the item is still set aside: its connection has answered just now.

        Raises: LeaseLost. Cancelled: the connection is closed.
        """
        await self._hear(KestrelClient.ask_version)

    async def check(self) -> bool:
        """Whether the item may still be set aside, by the server's answer on the connection that holds it.

        False: the server has no open read of the queue, but an item returned since the queue was created: maybe this
        one.
        Raises: QueueDeleted: it is gone with its queue, and the connection is closed; LeaseLost. Cancelled: as
        `verify`.
        """
        counts = parse_open_reads(await self._hear(KestrelClient.dump_stats, self.key), self.key)
        if counts is None or counts.open_reads:
            return True
        if counts.given_back:
            return False
        self.give_back()
        raise QueueDeleted

    async def confirm(self) -> None:
        """Removes the item for good; the server has confirmed it. The connection is back in the pool.

        Raises: LeaseLost if the item is back on its queue; BackendRefused if it is back because the server refused to
        confirm; OutcomeUnknown if the command was sent and no clean answer came. Cancelled: the connection is closed,
        and the outcome is unknown.
        """
        self._begin()
        try:
            await self._calm()
            if self._connection.state is not ConnectionState.PINNED:
                raise LeaseLost(LOST)
            await self._connection.call(self._server.timeout_s, self._confirm_command, self.key)
        except (ConnectionLostError, MemcacheError) as error:
            raise not_confirmed(error, self._server.address) from error
        finally:
            self._settled()
        self._return()

    def start_confirm(self, then: Callable[[GatewayError | None], None]) -> bool:
        """Starts what `confirm` does, and calls `then` with None or with what that raises.

        Returns False if it cannot start at once: then call `confirm`.
        """
        if self._state is not ReadState.HELD or self._connection.state is not ConnectionState.PINNED:
            return False
        self._begin()
        self._connection.start(partial(self._confirmed, then), self._server.timeout_s, self._confirm_command, self.key)
        return True

    def _confirmed(self, then: Callable[[GatewayError | None], None], _value: Any, error: BaseException | None) -> None:
        self._settled()
        if error is None:
            self._return()
            then(None)
            return
        failure = not_confirmed(error, self._server.address)
        failure.__cause__ = error
        then(failure)

    @property
    def _confirm_command(self) -> Command:
        capabilities = self._server.health.capabilities
        proves = capabilities is None or capabilities.confirm
        return KestrelClient.confirm if proves else KestrelClient.close_read

    async def first_of_batch(self) -> PinnedRead | SharedRead:
        """The item on a connection that may have more of them. Itself if the server cannot, or it is lost."""
        capabilities = self._server.health.capabilities
        if self._server.open_reads == 1 or (capabilities is not None and not capabilities.confirm):
            return self
        await self._calm()
        if self._state is not ReadState.HELD or self._connection.state is not ConnectionState.PINNED:
            return self
        reads = SharedReads(self._server, self._connection, self._counters, self.key, self.tenant)
        callbacks, self._callbacks = self._callbacks, ()
        return reads.take_over(self.data, self.number, callbacks)

    async def more(self, count: int, limit_bytes: int) -> Sequence[SharedRead]:  # noqa: ARG002
        """No other one: the item has its connection for itself."""
        return ()

    async def abort(self) -> None:
        """Puts the item back to the head of its queue, on trouble by closing the connection. Never raises.

        Does nothing if it is settled or lost. Cancelled: the connection is closed.
        """
        if self._state is not ReadState.HELD:
            return
        self._begin()
        try:
            await self._calm()
            if self._connection.state is ConnectionState.PINNED:
                await self._connection.call(self._server.timeout_s, KestrelClient.abort, self.key)
        except (ConnectionLostError, MemcacheError):
            pass
        finally:
            self._settled()
        self._return()

    async def abort_all(self, reads: Sequence[PinnedRead], /) -> None:
        """See OpenRead.abort_all. The last one taken goes first, because each goes to the head. Never raises.

        Cancelled: the connections of the others are still open.
        """
        for read in reversed(reads):
            await read.abort()

    def start_abort(self, then: Callable[[bool], None]) -> None:
        """Starts putting the item back by `abort`, keeping the connection; calls `then` with whether the
        server answered."""
        if self._state is not ReadState.HELD or self._connection.state is not ConnectionState.PINNED:
            self.give_back()
            then(False)
            return
        self._begin()
        self._connection.start(partial(self._aborted, then), self._server.timeout_s, KestrelClient.abort, self.key)

    def give_back(self) -> None:
        """Closes the connection at once; the server puts the item back. Does nothing if it is settled or lost."""
        if self._state in (ReadState.HELD, ReadState.SETTLING):
            self._settled()
            self._connection.disown()
            self._connection.close(ConnectionLostError("the item was given back", ours=True))

    def _aborted(self, then: Callable[[bool], None], _value: Any, error: BaseException | None) -> None:
        self._settled()
        self._return()
        then(error is None)

    async def _hear(self, command: Any, *args: Any) -> Any:
        """The server's answer on the connection that holds the item. Raises and Cancelled: as `verify`."""
        value = None
        try:
            await self._calm()
            if self._connection.state is ConnectionState.PINNED:
                value = await self._connection.call(self._server.timeout_s, command, *args)
        except (ConnectionLostError, MemcacheError) as error:
            raise LeaseLost(LOST) from error
        if self._connection.state is not ConnectionState.PINNED:
            raise LeaseLost(LOST)
        return value

    def _begin(self) -> None:
        """From here on a lost connection is an outcome of the command, and not reported to `on_lost`."""
        if self._state is ReadState.LOST:
            raise LeaseLost(LOST)
        self._move(ReadState.SETTLING)
        self._connection.disown()

    async def _calm(self) -> None:
        """Returns when no ping is in progress. Cancelled: the connection is closed."""
        try:
            await self._connection.calm()
        except asyncio.CancelledError:
            self._connection.close(ConnectionLostError("the caller was cancelled", ours=True))
            raise

    def _return(self) -> None:
        if self._connection.state is ConnectionState.PINNED:
            self._connection.unpin()
        self._server.commands.release(self._connection)
