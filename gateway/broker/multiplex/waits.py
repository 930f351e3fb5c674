"""An open or a peek that waits: for items of its queue, or only for the disk."""

from __future__ import annotations

import asyncio
from typing import Protocol

from gateway.broker.multiplex.budget import OpenBytes
from gateway.broker.queues.queue import PersistentQueue
from gateway.broker.queues.reads import OpenItem, ReadMode, ReadOwner
from gateway.broker.storage.batch import StoredItem, Ticket
from gateway.common.multiplex.messages import Opening


class OpeningClient(ReadOwner, Protocol):
    """The worker whose open waits. blocked: it takes no items now. budget: the bytes that it may have open."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    budget: OpenBytes

    @property
    def blocked(self) -> bool: ...
    def receive(self, wait: WaitingOpen, item: StoredItem, read: OpenItem | None) -> None: ...
    def nothing(self, wait: WaitingOpen, error: str | None) -> None: ...


class WaitingOpen:
    """Implements gateway.broker.queues.waiters.WaitingRead. It waits for the disk alone if the open does not wait."""

    __slots__ = ("_client", "_timer", "id", "mode", "opening", "queue", "waits_for_items")

    def __init__(
        self, client: OpeningClient, id_: int, opening: Opening, queue: PersistentQueue, mode: ReadMode
    ) -> None:
        self._client = client
        self.id = id_
        self.opening = opening
        self.queue = queue
        self.mode = mode
        self.waits_for_items = opening.wait_ms > 0
        self._timer: asyncio.TimerHandle | None = None
        if self.waits_for_items:
            self._timer = client.loop.call_later(opening.wait_ms / 1000, self._time_out)
        queue.waiters.join(self)

    def __repr__(self) -> str:
        return f"<WaitingOpen {self.id} of {self.queue.name!r}>"

    @property
    def reads(self) -> ReadOwner:
        return self._client

    @property
    def blocked(self) -> bool:
        client = self._client
        return client.blocked or (
            self.mode is not ReadMode.PEEK and not client.budget.has_room(self.opening.tenant, self.queue)
        )

    def receive(self, item: StoredItem, read: OpenItem | None, _ticket: Ticket | None) -> None:
        self._stop_timer()
        self._client.receive(self, item, read)

    def nothing(self, error: str | None) -> None:
        self._stop_timer()
        self._client.nothing(self, error)

    def leave(self) -> None:
        """Ends it without an answer."""
        self._stop_timer()
        self.queue.waiters.leave(self)

    def _time_out(self) -> None:
        self.queue.waiters.leave(self)
        self.nothing(None)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
