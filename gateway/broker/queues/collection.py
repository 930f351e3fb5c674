"""All queues by name: creation, fanout children, limits, expiry to other queues, flushing and deleting. No sockets.

A queue is created when a get, a set or a monitor first names it. It is stored on disk by its first item, or if it is a
fanout child (a child must get every later `set` of its parent, even after a restart).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from gateway.broker.config import Config
from gateway.broker.queues.queue import PersistentQueue
from gateway.broker.storage.batch import StoredItem, Ticket, Unchecked
from gateway.broker.storage.committer import Committer
from gateway.broker.storage.inventory import LAST_NUMBER, Inventory, StoredQueue
from gateway.broker.storage.large.format import LARGE_BYTES
from gateway.broker.storage.large.work import LatePut

log = logging.getLogger(__name__)

MAX_NAME_BYTES = 255
_ILLEGAL = frozenset(b"./~\x7f") | frozenset(range(0x21))


class IllegalNameError(Exception):
    """A queue cannot have this name. Source: transcript 12b."""


def legal(name: bytes) -> bool:
    """Whether a queue can have this name."""
    return bool(name) and len(name) <= MAX_NAME_BYTES and _ILLEGAL.isdisjoint(name)


class QueueCollection:
    """The queues by name."""

    def __init__(self, committer: Committer, config: Config, inventory: Inventory) -> None:
        self.committer = committer
        self.config = config
        self.creates = 0
        self.deletes = 0
        self._queues: dict[bytes, PersistentQueue] = {}
        self._children: dict[bytes, dict[bytes, None]] = {}
        self._reserved = inventory.reserved
        numbers = [found.number for found in inventory.queues] + [purge.number for purge in inventory.dropped]
        self._next_number = 1 + max(numbers, default=0)
        for found in inventory.queues:
            queue = self._add(found.name, found.number, found)
            if found.unchecked:
                committer.add_checksums(Unchecked(queue.backlog, queue.number, queue.name, 0))
        for purge in inventory.dropped:
            committer.purge(purge)
        committer.large.delete(*inventory.unfinished)

    def __iter__(self) -> Iterator[PersistentQueue]:
        return iter(list(self._queues.values()))

    def __len__(self) -> int:
        return len(self._queues)

    def find(self, name: bytes) -> PersistentQueue | None:
        """The queue, if it exists."""
        return self._queues.get(name)

    def get(self, name: bytes) -> PersistentQueue:
        """The queue, created if it does not exist. Raises IllegalNameError."""
        queue = self._queues.get(name)
        if queue is None:
            if not legal(name):
                raise IllegalNameError
            while self._next_number in self._reserved:
                self._next_number += 1
            if self._next_number > LAST_NUMBER:
                raise OverflowError("no number is left for another queue")
            queue = self._add(name, self._next_number)
            self._next_number += 1
        if not queue.stored and queue.is_child and (queue.creation is None or queue.creation.done):
            queue.create()
        return queue

    def children(self, name: bytes) -> list[bytes]:
        return list(self._children.get(name, ()))

    def _add(self, name: bytes, number: int, found: StoredQueue | None = None) -> PersistentQueue:
        queue = PersistentQueue(name, number, self.config.limits(name), self.committer, self._move_expired, found=found)
        self._queues[name] = queue
        self.creates += 1
        if queue.is_child:
            self._children.setdefault(name.partition(b"+")[0], {})[name] = None
        return queue

    def put(self, name: bytes, data: bytes, expires_ms: int) -> tuple[bool, Ticket | None, int]:
        """`put_many` for one item."""
        return self.put_many(name, ((data, expires_ms),))

    def put_many(self, name: bytes, entries: Sequence[tuple[bytes, int]]) -> tuple[bool, Ticket | None, int]:
        """Adds the items to every child and to the queue itself, or to none of them: if one is full, all refuse.

        entries: data and expiry in milliseconds. Several items are also refused if only some of them have room.
        Returns whether all are accepted, the ticket to wait for before the answer, and the number by which the ticket
        names the queue's own first item; those of the others follow. It is 0 if the queue has none. Raises
        IllegalNameError.
        """
        queue = self.get(name)
        count, sizes = len(entries), [len(data) for data, _ in entries]
        size, largest = sum(sizes), max(sizes)
        limits = queue.limits
        fanout_only = limits.fanout_only and not queue.is_child
        if largest > limits.max_item_bytes if fanout_only else queue.refuses(size, count, largest):
            return False, None, 0
        children = [self._queues[child] for child in self._children.get(name, ())]
        if children and any(child.refuses(size, count, largest) for child in children):
            return False, None, 0
        targets = children if fanout_only else [*children, queue]
        if (largest > LARGE_BYTES or self.committer.large.delays(targets)) and targets:
            return True, self.committer.large.add(LatePut(targets, entries, size)), 1
        ticket, first_id = None, 0
        for target in targets:
            ticket, first_id = target.put(entries, size)
        return True, ticket, 0 if fanout_only else first_id

    def is_late(self, name: bytes, largest: int) -> bool:
        """Whether a put of items up to that size would be stored later than other puts."""
        queue = self.get(name)
        children = [self._queues[child] for child in self._children.get(name, ())]
        return largest > LARGE_BYTES or self.committer.large.delays([*children, queue])

    def never_takes(self, name: bytes, size: int) -> bool:
        """Whether the queue, or a child of it, accepts no item of that size, however empty it is."""
        queues = [self.get(name), *(self._queues[child] for child in self._children.get(name, ()))]
        return any(size > each.limits.max_item_bytes for each in queues)

    def flush(self, name: bytes) -> Ticket | None:
        queue = self._queues.get(name)
        return None if queue is None else queue.flush()

    def delete(self, name: bytes) -> Ticket | None:
        """Deletes the queue; its children stay. Does nothing if it does not exist."""
        queue = self._queues.pop(name, None)
        if queue is None:
            return None
        self.deletes += 1
        if queue.is_child:
            parent = name.partition(b"+")[0]
            self._children[parent].pop(name, None)
            if not self._children[parent]:
                del self._children[parent]
        return queue.delete()

    def configure(self, config: Config) -> None:
        """Sets new limits for existing and future queues."""
        self.config = config
        for queue in self._queues.values():
            queue.limits = config.limits(queue.name)

    def drop_expired(self) -> int:
        """Removes expired items from the heads of all queues; returns how many."""
        return sum(queue.drop_expired() for queue in self)

    def sweep(self) -> None:
        """Once a second: removes expired items, and wakes queues whose head was never read since the start."""
        for queue in self:
            if queue.backlog.ready and queue.drop_expired() and queue.waiters:
                queue.serve()  # the next item may have room where the expired one had none
            if queue.backlog.behind and (queue.limits.expire_to_queue or queue.limits.max_age):
                queue.head()

    def evict(self) -> None:
        """Ends every wait on every queue without an item."""
        for queue in self:
            queue.waiters.evict()

    def _move_expired(self, queue: PersistentQueue, item: StoredItem) -> bool:
        """Moves an expired item to its queue's `expire_to_queue`; False if that queue does not accept it."""
        target = self.get(queue.limits.expire_to_queue.encode())
        if target.refuses(len(item.data)):
            log.warning("an expired item of %r is dropped: %r is full", queue.name, target.name)
            return False
        if not target.stored:
            target.create()
        self.committer.move(queue, item, target, target.make(item, 0))
        return True
