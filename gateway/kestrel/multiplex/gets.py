"""One queue on the embedded broker: the gets that go on the multiplexed connection."""

from __future__ import annotations

import asyncio

from gateway.common.multiplex.frames import Frame, FrameKind
from gateway.common.multiplex.messages import Code, unpack_outcome
from gateway.errors import BackendRefused, BackendUnavailable
from gateway.kestrel.link import PendingGet
from gateway.kestrel.multiplex.channel import BrokerChannel
from gateway.kestrel.multiplex.read import MultiplexedRead
from gateway.kestrel.polls.values import Get
from gateway.kestrel.server.queue_gets import QueueGets


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

    __slots__ = ("_channel", "_get", "_id", "_link", "_over", "_timer")

    def __init__(self, link: MultiplexedGets, channel: BrokerChannel, get: Get) -> None:
        self._link = link
        self._channel = channel
        self._get = get
        self._id = 0
        self._over = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Sends the get."""
        link, channel = self._link, self._channel
        if channel.closed:
            self._finish(None, link.server.health.error)
            return
        wait_s = link.sending(self._get)
        wait_ms = max(1, int(wait_s * 1000)) if wait_s else 0
        link.counters.waits_sent += bool(wait_ms)
        link.counters.commands += 1
        self._id = channel.open(link.key.encode(), wait_ms, self._answered)
        self._timer = channel.loop.call_later(wait_s + link.server.timeout_s, self._time_out)

    def close(self) -> None:
        """Ends the get: an item that it was about to bring goes back."""
        if not self._over:
            self._over = True
            self._stop()
            self._channel.cancel(self._id)

    def _answered(self, answer: Frame | None) -> None:
        if self._over:
            return
        link = self._link
        if answer is None:
            self._finish(None, BackendUnavailable(f"{link.server.address.marked} does not answer"))
        elif answer.kind == FrameKind.ITEM:
            link.counters.items_taken += 1
            item = MultiplexedRead(link.server, self._channel, link.counters, link.key, link.tenant, answer)
            self._finish(item, None)
        else:
            (code,), why = unpack_outcome(answer.payload, 1)
            self._finish(None, None if code is Code.EMPTY else self._refusal(code, why))

    def _refusal(self, code: Code, why: str) -> BackendUnavailable:
        server = self._link.server
        if code is Code.REFUSED:
            server.look()
            return BackendRefused(f"{server.address.marked} refuses: {why}")
        return BackendUnavailable(f"{server.address.marked} refuses: {code.name.lower().replace('_', ' ')}")

    def _time_out(self) -> None:
        """No answer: an item that comes later goes back."""
        server = self._link.server
        self._channel.cancel(self._id)
        server.look()
        self._finish(None, BackendUnavailable(f"{server.address.marked} did not answer in time"))

    def _finish(self, item: MultiplexedRead | None, error: BackendUnavailable | None) -> None:
        self._over = True
        self._stop()
        self._link.counters.waits_cut += error is not None
        self._link.answered(self._get, item, error)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
