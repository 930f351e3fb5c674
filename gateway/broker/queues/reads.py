"""Reads of items, independent of the client's protocol: the modes, and the open reads of a queue and of a connection.

An open read sets an item aside for one client until the client confirms it or gives it back. Kestrel calls it an open
transaction. The queue keeps its open reads (`OpenReads`), and so does each connection (`ClientReads`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Protocol, TypeAlias

from gateway.broker.storage.batch import StoredItem, Ticket


class ReadMode(Enum):
    """What a reader does with the item: removes it, holds it open, or peeks at it."""

    TAKE = 1
    OPEN = 2
    PEEK = 3


class Settler(Protocol):
    """The queue of an open read, which settles it."""

    deleted: bool

    @property
    def name(self) -> bytes: ...
    def confirm(self, read: OpenItem) -> Ticket | None: ...
    def give_back(self, read: OpenItem) -> None: ...
    def take_back(self, reads: Sequence[OpenItem]) -> None: ...
    def serve(self, most: int = ...) -> bool: ...


class ReadOwner(Protocol):
    """The connection whose reads they are."""

    def add(self, read: OpenItem) -> None:
        """A further read was opened for it. It must confirm the read or give it back, at the latest when it ends."""


class OpenItem:
    """One open read. `live` until it is settled, timed out, or its queue is deleted.

    on_void: called if the queue ends it, by a time-out or its deletion, before anyone else gets the item. number: the
    connection's name for it.
    """

    __slots__ = ("item", "live", "number", "on_void", "opened_s", "queue")

    def __init__(self, queue: Settler, item: StoredItem, opened_s: float) -> None:
        self.queue = queue
        self.item = item
        self.opened_s = opened_s
        self.live = True
        self.number = 0
        self.on_void: Callable[[OpenItem], None] | None = None

    def void(self) -> None:
        """The queue has ended it."""
        if self.on_void is not None:
            self.on_void(self)


Delivery: TypeAlias = tuple[StoredItem, OpenItem | None, Ticket | None]
"""The item; its open read, in mode OPEN; the ticket to wait for before the item is sent, in mode TAKE."""


class OpenReads:
    """The open reads of one queue, oldest first. `bytes`: the size of their items."""

    __slots__ = ("_reads", "bytes")

    def __init__(self) -> None:
        self._reads: dict[OpenItem, None] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._reads)

    def add(self, read: OpenItem) -> None:
        self._reads[read] = None
        self.bytes += len(read.item.data)

    def close(self, read: OpenItem) -> None:
        """The read, which is live, is settled."""
        read.live = False
        del self._reads[read]
        self.bytes -= len(read.item.data)

    def close_all(self, reads: Iterable[OpenItem]) -> list[StoredItem]:
        """The reads are settled. Returns the items of those that were live, in this order."""
        items = []
        for read in reads:
            if read.live:
                read.live = False
                del self._reads[read]
                items.append(read.item)
        self.bytes -= sum([len(item.data) for item in items])
        return items

    def overdue(self, before_s: float) -> OpenItem | None:
        """The oldest read, if it was opened before that time."""
        read = next(iter(self._reads), None)
        return read if read is not None and read.opened_s < before_s else None

    def void(self) -> None:
        """The queue is deleted: nothing is left to settle."""
        reads, self._reads = self._reads, {}
        self.bytes = 0
        for read in reads:
            read.live = False
        for read in reads:
            read.void()

    def ids(self) -> list[int]:
        """The ids of their items, in order of the ids."""
        return sorted(read.item.id for read in self._reads)


class ClientReads:
    """The open reads of one client connection, by queue, in the order in which it took the items.

    limit: how many may be open per queue. The connection gives all of them back when it ends.
    """

    __slots__ = ("_by_queue", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._by_queue: dict[bytes, OrderedDict[OpenItem, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_queue.values()))

    def count(self, name: bytes) -> int:
        """How many are open on the queue with this name."""
        return len(self._by_queue.get(name, ()))

    def may_open(self, name: bytes) -> bool:
        """Whether a further one may be opened on the queue."""
        return len(self._by_queue.get(name, ())) < self.limit

    def add(self, read: OpenItem) -> None:
        name = read.queue.name
        reads = self._by_queue.get(name)
        if reads is None:
            reads = self._by_queue[name] = OrderedDict()
        reads[read] = None

    def confirm_oldest(self, name: bytes) -> Ticket | None:
        """Confirms the oldest read of the queue, if there is one. The ticket is settled when the item's row is gone;
        None if nothing is to be removed."""
        reads = self._by_queue.get(name)
        if not reads:
            return None
        read, _ = reads.popitem(last=False)
        return read.queue.confirm(read)

    def abort_oldest(self, name: bytes) -> None:
        """Gives the oldest read of the queue back, if there is one."""
        reads = self._by_queue.get(name)
        if reads:
            read, _ = reads.popitem(last=False)
            read.queue.give_back(read)

    def confirm(self, read: OpenItem) -> Ticket | None:
        """Confirms this read, in any order. Raises KeyError if it is not one of this connection."""
        del self._by_queue[read.queue.name][read]
        return read.queue.confirm(read)

    def abort(self, read: OpenItem) -> None:
        """Gives this read back, in any order. Raises KeyError if it is not one of this connection."""
        del self._by_queue[read.queue.name][read]
        read.queue.give_back(read)

    def give_back_all(self) -> None:
        """The connection is over: gives everything back, of each queue in the order of taking."""
        by_queue, self._by_queue = self._by_queue, {}
        for reads in by_queue.values():
            for read in reads:
                read.queue.give_back(read)


def take_back(reads: Iterable[OpenItem]) -> list[Settler]:
    """Puts the items of many queues back in the order of `reads`. Returns the queues, which the caller then serves.

    All items are back before any waiter is served, so a waiter gets the first of them. Each queue takes its items
    together, in one call: a worker that ends may have had thousands.
    """
    by_queue: dict[Settler, list[OpenItem]] = {}
    for read in reads:
        by_queue.setdefault(read.queue, []).append(read)
    for queue, of_queue in by_queue.items():
        queue.take_back(of_queue)
    return list(by_queue)
