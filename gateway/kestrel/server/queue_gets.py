"""One queue on one memcache server: the server's figures for its polls, and the gets that are sent there.

Owns the connection of a get from the request for it until the answer. Makes no decision.
"""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.common.counted import counted
from gateway.errors import BackendRefused, BackendUnavailable, TooManyWaiters, Unavailable
from gateway.kestrel.counters import Counters
from gateway.kestrel.link import Answered, PendingGet, Sending
from gateway.kestrel.polls.values import EndReason, Get, ServerFigures
from gateway.kestrel.server.pinned_read import PinnedRead
from gateway.kestrel.server.server import Server
from gateway.kestrel.wire.codec import KestrelClient
from gateway.kestrel.wire.connection import Command, Connection, ConnectionLostError, ConnectionState
from gateway.kestrel.wire.failures import copied, not_asked
from gateway.names.namespace import FANOUT

WAIT_S: Final = 1.0
"""The longest wait on a server with up to WAITS_A_SECOND gets. Real Kestrel may not wake a get when an item arrives;
the next get finds it. Source: kestrel-wire.md, "Lost wake-up"."""
WAITS_A_SECOND: Final = 500
"""The most waits that begin in a second, over all queues of a server. With more queues each wait lasts longer."""


class QueueGets:
    """A queue of a tenant on one server. Implements gateway.kestrel.link.QueueLink."""

    __slots__ = ("answered", "counters", "key", "sending", "server", "take", "tenant")

    def __init__(  # noqa: PLR0917 (one caller)
        self, server: Server, key: str, tenant: str, counters: Counters, sending: Sending, answered: Answered
    ) -> None:
        self.server = server
        self.key = key
        self.tenant = tenant
        self.counters = counters
        self.sending = sending
        self.answered = answered
        self.take: Command = KestrelClient.take_existing if FANOUT in key else KestrelClient.take

    def get(self, get: Get) -> PendingGet:
        return MemcacheGet(self, get)

    @property
    def heard_at(self) -> float:
        return self.server.connections.heard_at

    @property
    def full_at(self) -> float:
        return self.server.room.full_at(self.tenant)

    @property
    def longest_wait_s(self) -> float:
        server = self.server
        return min(server.longest_wait_s, max(WAIT_S, server.room.gets.held / WAITS_A_SECOND))

    def figures(self, others: int) -> ServerFigures:
        server = self.server
        items = server.room.item_room(self.tenant)
        if items <= 0:
            server.room.full(self.tenant)  # registers for the call when there is room again
        return ServerFigures(server.delivers(self.key), items, server.room.get_room(self.tenant, others))

    def take_place(self) -> None:
        self.server.room.gets.take(self.tenant)

    def return_place(self) -> None:
        self.server.room.return_gets(self.tenant, 1)

    def trouble(self, why: EndReason, error: Exception | None) -> Unavailable:
        """Why the server was not asked, as a new error to raise."""
        server = self.server
        if why is EndReason.DOWN:
            return server.health.error
        if why is EndReason.FULL:
            return server.room.refusal(self.tenant, server.address.marked)
        if why is EndReason.CROWDED:
            return self._no_place()
        if why is EndReason.FAILED and isinstance(error, Unavailable):
            return copied(error)
        if why is EndReason.SILENT:
            return BackendUnavailable(f"{server.address.marked} does not answer")
        return BackendUnavailable(f"no connection to {server.address.marked} in time")

    def _no_place(self) -> TooManyWaiters:
        gets, marked = self.server.room.gets, self.server.address.marked
        if gets.held >= gets.limit:
            return TooManyWaiters(
                f"{marked} has reached its limit of {counted(gets.limit, 'waiting get')}; try again later"
            )
        held = gets.of(self.tenant)
        return TooManyWaiters(
            f"the tenant has {counted(held, 'waiting get')} on {marked}, its share of the limit of {gets.limit}; "
            "try again later"
        )


class MemcacheGet:
    """A get that is about to be sent, or is on its server. Implements gateway.kestrel.link.PendingGet.

    Calls the link's `sending` when it has a connection, and `answered` once unless it is closed before.
    """

    __slots__ = ("_connection", "_get", "_link", "_over", "_wanted")

    def __init__(self, link: QueueGets, get: Get) -> None:
        self._link = link
        self._get = get
        self._over = False
        self._connection: Connection | None = None
        self._wanted: asyncio.Future[Connection] | None = None

    def start(self) -> None:
        """Sends the get as soon as there is a connection. It may be answered before this returns."""
        connection = self._link.server.commands.checkout()
        if connection is not None:
            self._use(connection)
        else:
            self._want()

    def close(self) -> None:
        """Ends the get: an item that it was about to bring goes back."""
        if self._over:
            return
        self._over = True
        if self._connection is not None:
            self._connection.close(ConnectionLostError("no poll waits any more", ours=True))
        elif self._wanted is not None:
            self._wanted.cancel()

    def _want(self) -> None:
        self._wanted = self._link.server.commands.want(self._link.tenant)
        self._wanted.add_done_callback(self._granted)

    def _granted(self, future: asyncio.Future[Connection]) -> None:
        if future.cancelled():
            return
        error = future.exception()
        if self._over:
            if error is None:
                self._link.server.commands.release(future.result())
        elif error is not None:
            assert isinstance(error, BackendUnavailable)
            self._over = True
            self._link.answered(self._get, None, error)
        elif future.result().state is ConnectionState.IDLE:
            self._use(future.result())
        else:
            self._want()

    def _use(self, connection: Connection) -> None:
        link = self._link
        self._connection = connection
        wait_s = link.sending(self._get)
        wait_ms = max(1, int(wait_s * 1000)) if wait_s else 0
        link.counters.waits_sent += bool(wait_ms)
        connection.start(self._answered, wait_s + link.server.timeout_s, link.take, link.key, wait_ms)

    def _answered(self, data: bytes | None, error: BaseException | None) -> None:
        if self._over:
            return
        self._over = True
        link, connection = self._link, self._connection
        assert connection is not None
        item: PinnedRead | None = None
        cut: BackendUnavailable | None = None
        if error is not None:
            link.counters.waits_cut += 1
            cut = not_asked(error, link.server.address)
            if isinstance(cut, BackendRefused):
                link.server.look()
        elif data is None:
            link.server.commands.release(connection)
        else:
            link.counters.items_taken += 1
            item = PinnedRead(link.server, connection, link.counters, link.key, data, link.tenant)
        link.answered(self._get, item, cut)
