"""One queue on the embedded broker: the gets that go on the multiplexed connection."""

from __future__ import annotations

from collections.abc import Callable

from gateway.common.multiplex.frames import Frame, FrameKind
from gateway.common.multiplex.messages import Code, unpack_outcome
from gateway.errors import BackendRefused, BackendUnavailable, Unavailable
from gateway.kestrel.counters import Counters
from gateway.kestrel.link import PendingGet, Taken
from gateway.kestrel.multiplex.channel import BrokerChannel
from gateway.kestrel.multiplex.read import MultiplexedRead
from gateway.kestrel.polls.values import Get
from gateway.kestrel.server.queue_gets import QueueGets
from gateway.kestrel.server.server import Server


class MultiplexedGets(QueueGets):
    """A queue of a tenant. channel: None while the server is reached by memcache alone."""

    __slots__ = ()

    @property
    def channel(self) -> BrokerChannel | None:
        """The server's connection."""
        found: BrokerChannel | None = getattr(self.server, "channel", None)
        return found

    @property
    def longest_wait_s(self) -> float:
        """The broker wakes every open, so that waits may be long."""
        return super().longest_wait_s if self.channel is None else self.server.longest_wait_s

    def get(self, get: Get) -> PendingGet:
        """On the connection if there is one."""
        channel = self.channel
        return super().get(get) if channel is None else MultiplexedGet(self, channel, get)


class MultiplexedGet:
    """An open that is about to be sent, or is on the broker. Implements gateway.kestrel.link.PendingGet."""

    __slots__ = ("_channel", "_get", "_id", "_link", "_over")

    def __init__(self, link: MultiplexedGets, channel: BrokerChannel, get: Get) -> None:
        self._link = link
        self._channel = channel
        self._get = get
        self._id = 0
        self._over = False

    def start(self) -> None:
        """Sends the get."""
        link, channel = self._link, self._channel
        if channel.closed:
            self._finish(None, link.server.health.error)
            return
        wait_s = link.sending(self._get)
        link.counters.waits_sent += wait_s > 0
        link.counters.commands += 1
        self._id = channel.open(link.key.encode(), wait_s, self._answered, tenant=link.tenant)

    def close(self) -> None:
        """Ends the get: an item that it was about to bring goes back."""
        if not self._over:
            self._over = True
            self._channel.cancel(self._id)

    def _answered(self, answer: Frame | None) -> None:
        if self._over:
            return
        link = self._link
        if answer is not None and answer.kind == FrameKind.ITEM:
            link.counters.items_taken += 1
            item = MultiplexedRead(link.server, self._channel, link.counters, link.key, link.tenant, answer)
            self._finish(item, None)
            return
        if answer is None and not self._channel.closed:
            self._channel.withdraw(self._id)
        self._finish(None, no_item(link.server, self._channel, link.tenant, answer))

    def _finish(self, item: MultiplexedRead | None, error: Unavailable | None) -> None:
        self._over = True
        self._link.counters.waits_cut += isinstance(error, BackendUnavailable)
        self._link.answered(self._get, item, error)


class DirectTake:
    """An open that does not wait, for one poll."""

    __slots__ = ("_channel", "_counters", "_id", "_key", "_server", "_tenant", "_then")

    def __init__(  # noqa: PLR0917 (one caller)
        self, server: Server, channel: BrokerChannel, counters: Counters, key: str, tenant: str, then: Taken
    ) -> None:
        self._server = server
        self._channel = channel
        self._counters = counters
        self._key = key
        self._tenant = tenant
        self._then: Taken | None = then
        self._id = 0

    def start(self, after: int) -> Callable[[], None]:
        """Sends it; returns what ends it."""
        self._server.room.coming.take(self._tenant)
        self._id = self._channel.open(self._key.encode(), 0.0, self._answered, tenant=self._tenant, after=after)
        return self._end

    def _end(self) -> None:
        if self._then is not None:
            self._then = None
            self._server.room.coming.give_back(self._tenant)
            self._channel.cancel(self._id)

    def _answered(self, answer: Frame | None) -> None:
        then, self._then = self._then, None
        if then is None:
            return
        self._server.room.coming.give_back(self._tenant)
        if answer is not None and answer.kind == FrameKind.ITEM:
            counters = self._counters
            counters.items_taken += 1
            then(MultiplexedRead(self._server, self._channel, counters, self._key, self._tenant, answer), None)
            return
        if answer is None and not self._channel.closed:
            self._channel.withdraw(self._id)
        then(None, no_item(self._server, self._channel, self._tenant, answer))


def no_item(server: Server, channel: BrokerChannel, tenant: str, answer: Frame | None) -> Unavailable | None:
    """Why an open has brought no item; None if the queue is empty, or the read that it names was not confirmed.

    answer: None if none came.
    """
    marked = server.address.marked
    if answer is None:
        if channel.closed:
            return BackendUnavailable(f"{marked} does not answer")
        server.look()
        return BackendUnavailable(f"{marked} did not answer in time")
    (code,), why = unpack_outcome(answer.payload, 1)
    if code in {Code.EMPTY, Code.FAILED}:
        return None
    if code is Code.NO_ROOM:
        server.room.short(tenant)
        return server.room.refusal(tenant, marked)
    if code is Code.REFUSED:
        server.look()
        return BackendRefused(f"{marked} refuses: {why}")
    return BackendUnavailable(f"{marked} refuses: {code.name.lower().replace('_', ' ')}")
