"""The reads that wait for an item of one queue, in order of arrival. Any kind of connection can wait."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from gateway.broker.queues.reads import OpenItem, ReadMode, ReadOwner
from gateway.broker.storage.batch import StoredItem, Ticket


class WaitingRead(Protocol):
    """A read that waits. `waits_for_items`: for items to arrive; otherwise only for items that are on disk.

    Exactly one of `receive` and `nothing` is called, once; that ends the wait. An open read is added to `reads` first,
    those of its connection. `blocked`: it cannot take the next item now, and others come before it. When that
    ends, its connection has the queue serve.
    """

    mode: ReadMode
    waits_for_items: bool

    @property
    def reads(self) -> ReadOwner: ...
    @property
    def blocked(self) -> bool: ...

    def receive(self, item: StoredItem, read: OpenItem | None, ticket: Ticket | None) -> None:
        """The item, as `reads.Delivery` describes it."""

    def nothing(self, error: str | None) -> None:
        """There is no item. error: why the disk could not be read, or None."""


class Waiters(OrderedDict[WaitingRead, None]):
    """Those that wait for one queue; the first is served first."""

    def join(self, waiter: WaitingRead) -> None:
        """Waits behind all others, until it is served or leaves."""
        self[waiter] = None

    def leave(self, waiter: WaitingRead) -> None:
        """Waits no longer, if it still did."""
        self.pop(waiter, None)

    def next(self) -> WaitingRead | None:
        """The first that can take an item."""
        for waiter in self:
            if not waiter.blocked:
                return waiter
        return None

    def dismiss_disk_waiters(self, error: str | None) -> None:
        """Ends the waits of those that only wait for the disk."""
        for waiter in [waiter for waiter in self if not waiter.waits_for_items]:
            del self[waiter]
            waiter.nothing(error)

    def evict(self) -> None:
        """Ends every wait without an item."""
        waiters = list(self)
        self.clear()
        for waiter in waiters:
            waiter.nothing(None)
