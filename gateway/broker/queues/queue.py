"""One FIFO queue in memory: decides who gets which item, what the limits allow, and what happens to expired items.

The items and their order are in its backlog, the open reads and the waiters in separate objects. Synchronous; its
journal does the I/O.

Invariants
1. An item is ready only after the commit that wrote it; a reader never gets an item whose `set` may still fail.
2. Every row of the queue is in exactly one place: its backlog, an open read, or a removal on its way to disk.
3. An item that is given back goes to the head without a write: its row still exists. A restart finds it in its old
   place, which is near the head.
4. Waiters are served in order of arrival; a later reader is never served before them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from gateway.broker.config import QueueLimits
from gateway.broker.counters import QueueCounters
from gateway.broker.queues.backlog import Backlog
from gateway.broker.queues.reads import Delivery, OpenItem, OpenReads, ReadMode, ReadOwner
from gateway.broker.queues.waiters import Waiters
from gateway.broker.storage.batch import ItemOwner, Purge, StoredItem, Ticket, reference_of
from gateway.broker.storage.inventory import StoredQueue, highest_id, lowest_id
from gateway.broker.storage.large.format import Reference
from gateway.broker.storage.reader import QueueRows, Window, WindowOwner


class Journal(Protocol):
    """What a queue needs from the disk."""

    def create(self, owner: ItemOwner, number: int, name: bytes) -> Ticket: ...
    def put(self, owner: ItemOwner, *items: StoredItem) -> Ticket: ...
    def remove(self, owner: ItemOwner, item: StoredItem) -> Ticket: ...
    def discard(self, item: StoredItem) -> None: ...
    def recount(self, number: int) -> None: ...
    def purge(self, purge: Purge) -> Ticket: ...
    def read_ahead(self, owner: WindowOwner, rows: QueueRows, generation: int, after: int, upto: int) -> None: ...


MoveExpired: TypeAlias = Callable[["PersistentQueue", StoredItem], bool]
"""Moves an expired item to the queue that the limits name; False if that queue does not accept it."""


class PersistentQueue:
    """A queue by name. `number` is its key on disk. pending: items on their way to disk."""

    def __init__(
        self,
        name: bytes,
        number: int,
        limits: QueueLimits,
        journal: Journal,
        move_expired: MoveExpired,
        *,
        found: StoredQueue | None = None,
    ) -> None:
        """found: what a start found on disk."""
        self.name = name
        self.number = number
        self.is_child = b"+" in name
        self.limits = limits  # new limits apply to existing items, too
        self.journal = journal
        self._move_expired = move_expired
        self.stored = found is not None  # whether its row is known to be on disk
        self.creation: Ticket | None = None  # of the batch that will write its row
        self.deleted = False
        self.backlog = Backlog(name, number, found)
        self.open_reads = OpenReads()
        self.waiters = Waiters()
        self.pending = 0
        self.pending_bytes = 0
        self.counters = QueueCounters(total_items=found.ever if found else 0)

    def __repr__(self) -> str:
        counts = f"items={self.backlog.items} open={len(self.open_reads)} waiters={len(self.waiters)}"
        return f"<PersistentQueue {self.name!r} {counts}>"

    # Putting

    def create(self) -> None:
        """Writes the queue's row with the current batch."""
        self.creation = self.journal.create(self, self.number, self.name)

    def refuses(self, size: int, items: int = 1, largest: int = 0) -> bool:
        """Whether an item of `size` bytes is refused. A queue that discards old items does so when the item is
        committed.

        items: how many have `size` together, the largest of them `largest`; then, whether one may be refused.
        """
        limits, backlog = self.limits, self.backlog
        if (largest or size) > limits.max_item_bytes:
            return True
        if limits.discard_old_when_full:
            return False
        more_bytes = size if items > 1 else 0
        return (
            backlog.items + self.pending + items > limits.max_items
            or backlog.bytes + self.pending_bytes + more_bytes >= limits.max_bytes
        )

    def make(self, old: StoredItem, expires_ms: int) -> StoredItem:
        """A new item with the data of `old`, on its way to disk. Raises OverflowError after 2**40 items."""
        item = self.backlog.new_item(old.data, int(time.time() * 1000), expires_ms, reference_of(old))
        self.pending += 1
        self.pending_bytes += len(old.data)
        return item

    def put(
        self, entries: Sequence[tuple[bytes, int]], size: int, late: Sequence[Reference | None] | None = None
    ) -> tuple[Ticket, int]:
        """Adds items to the tail; the ticket is settled when they are on disk. Returns the id of the first one, too.

        entries: data and expiry in milliseconds. size: of the data. late: they are counted as pending already, and
        these have references. The caller has called `refuses`. Raises OverflowError after 2**40 items.
        """
        if not self.stored:
            self.create()
        new_item, now_ms = self.backlog.new_item, int(time.time() * 1000)
        if late is not None:
            pairs = zip(entries, late, strict=True)
            items = [new_item(data, now_ms, expires_ms, reference) for (data, expires_ms), reference in pairs]
            return self.journal.put(self, *items), items[0].id
        items = [new_item(data, now_ms, expires_ms) for data, expires_ms in entries]
        self.pending += len(items)
        self.pending_bytes += size
        return self.journal.put(self, *items), items[0].id

    # Called by the disk

    def created(self) -> None:
        """The queue's row is on disk."""
        self.stored = True

    def placed(self, item: StoredItem) -> None:
        """The item is on disk and can be read from now on."""
        if self.deleted:
            return
        size = len(item.data)
        self.pending -= 1
        self.pending_bytes -= size
        self.counters.total_items += 1
        self.backlog.append(item)
        if self.limits.discard_old_when_full:
            self._discard_oldest(size)

    def not_placed(self, item: StoredItem) -> None:
        """The item did not reach the disk; its `set` gets an error."""
        self.pending -= 1
        self.pending_bytes -= len(item.data)

    def not_removed(self, item: StoredItem) -> None:
        """The removal failed: the item is the head again."""
        if not self.deleted:
            self.backlog.push_front(item)
            self.serve()

    def loaded(self, generation: int, window: Window) -> None:
        """The result of reading ahead: the rows above the cursor."""
        backlog = self.backlog
        backlog.loading = False
        if generation == backlog.generation:
            if not backlog.extend(window):
                self.journal.recount(self.number)
            if self.limits.discard_old_when_full:
                self._discard_oldest(1)
        self.serve()
        if self.head() is None and not backlog.loading:
            self.waiters.dismiss_disk_waiters(None)

    def not_loaded(self, error: str) -> None:
        """Reading ahead failed: waiters that only wait for the disk get the error, the others keep waiting."""
        self.backlog.loading = False
        self.waiters.dismiss_disk_waiters(error)

    # Reading

    def head(self) -> StoredItem | None:
        """The first ready item after dropping expired ones; None if memory has none. Reads ahead if there are few."""
        backlog = self.backlog
        ready = backlog.ready
        if self.limits.max_age or (ready and ready[0].expires_ms):
            self.drop_expired()
        if backlog.cursor < backlog.visible_id and not backlog.loading and backlog.low:
            backlog.loading = True
            self.journal.read_ahead(self, backlog.rows, backlog.generation, backlog.cursor, backlog.visible_id)
        return ready[0] if ready else None

    def read(self, mode: ReadMode, reads: ReadOwner) -> Delivery | None:
        """The head, read as `mode` says; an open read is added to `reads`, those of the connection.

        None if there is no item at the moment, or if others wait for it.
        """
        if self.waiters.next() is not None:
            return None
        found = self._read(mode, reads)
        if found is not None and self.waiters:
            self.serve()  # the next item may have room where this one had none
        return found

    def _read(self, mode: ReadMode, reads: ReadOwner) -> Delivery | None:
        timeout_s = self.limits.open_transaction_timeout
        if timeout_s and self.backlog.items and mode is not ReadMode.PEEK:
            self._time_out_oldest(timeout_s)
        item = self.head()
        if item is None:
            return None
        if mode is ReadMode.PEEK:
            return item, None, None
        self.backlog.pop()
        if mode is ReadMode.TAKE:
            return item, None, self.journal.remove(self, item)
        self.counters.transactions += 1
        read = OpenItem(self, item, time.time())
        self.open_reads.add(read)
        reads.add(read)
        return item, read, None

    def serve(self, most: int = sys.maxsize) -> bool:
        """Gives ready items to waiters, in order, to at most so many. Returns False if there may be more to do."""
        waiters = self.waiters
        for _ in range(most):
            waiter = waiters.next()
            found = None if waiter is None else self._read(waiter.mode, waiter.reads)
            if waiter is None or found is None:
                return True
            waiters.leave(waiter)
            waiter.receive(*found)
        return False

    # Settling

    def confirm(self, read: OpenItem) -> Ticket | None:
        """Removes the item; the ticket is settled when its row is gone. None if the read is no longer live."""
        if not read.live:
            return None
        self.open_reads.close(read)
        return self.journal.remove(self, read.item)

    def give_back(self, read: OpenItem) -> None:
        """Makes the item the head again, and gives it to a waiter at once. Does nothing if the read is not live."""
        if read.live:
            self.take_back((read,))
            self.serve()

    def take_back(self, reads: Sequence[OpenItem]) -> None:
        """Makes the items of live reads the head again, in this order, and serves nobody: the caller does that."""
        items = self.open_reads.close_all(reads)
        self.counters.canceled_transactions += len(items)
        self.backlog.push_front(*items)

    def _time_out_oldest(self, timeout_s: float) -> None:
        """Only the oldest read, and only if a read finds the queue not empty. Source: transcript 20d."""
        read = self.open_reads.overdue(time.time() - timeout_s)
        if read is not None:
            self.take_back((read,))
            read.void()

    # Expiry and emptying

    def drop_expired(self) -> int:
        """Removes expired items from the head, to `expire_to_queue` if that is set; returns how many."""
        backlog, limits = self.backlog, self.limits
        max_age_ms, now_ms = int(limits.max_age * 1000), time.time() * 1000
        count = 0
        while backlog.ready and _is_expired(backlog.ready[0], max_age_ms, now_ms):
            reference = backlog.age_reference_ms
            item = backlog.pop()
            backlog.age_reference_ms = reference
            if not (limits.expire_to_queue and self._move_expired(self, item)):
                self.journal.discard(item)
            count += 1
        self.counters.expired_items += count
        return count

    def _discard_oldest(self, newest_bytes: int) -> None:
        """Drops items from the head until the newest one fits; rows that are only on disk follow when they are read."""
        limits, backlog = self.limits, self.backlog
        while self.head() is not None and (
            backlog.items > limits.max_items or backlog.bytes - newest_bytes >= limits.max_bytes
        ):
            self.counters.discarded += 1
            self.journal.discard(backlog.pop())

    def flush(self) -> Ticket | None:
        """Removes every ready item; open reads and items on their way to disk stay. Ticket: the rows are gone."""
        self.counters.total_flushes += 1
        spans = self.backlog.spans(self.open_reads.ids())
        self.backlog.skip_all()
        return self._purge(spans, drop=False)

    def delete(self) -> Ticket | None:
        """Deletes the queue: waiters get nothing, open reads are void. The ticket is settled when that is on disk."""
        self.deleted = True
        self.open_reads.void()
        self.backlog.skip_all()
        ticket = self._purge([(lowest_id(self.number), highest_id(self.number))], drop=True)
        self.waiters.evict()
        return ticket

    def _purge(self, spans: list[tuple[int, int]], *, drop: bool) -> Ticket | None:
        if not spans or (not self.stored and self.creation is None):
            return None
        return self.journal.purge(Purge(self.number, spans, drop=drop))


def _is_expired(item: StoredItem, max_age_ms: int, now_ms: float) -> bool:
    expires_ms = item.expires_ms
    if max_age_ms:
        limit = item.added_ms + max_age_ms
        expires_ms = min(expires_ms, limit) if expires_ms else limit
    return bool(expires_ms) and expires_ms < now_ms
