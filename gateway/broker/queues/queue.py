"""One FIFO queue in memory: ready items, open reads, waiters, limits, expiry. Synchronous; its journal does the I/O.

Invariants
1. An item is ready only after the commit that wrote it; a reader never gets an item whose `set` may still fail.
2. Every row of the queue is in exactly one place: `ready`, an open read, a removal on its way to disk, or only on disk
   above `cursor`. Rows that are only on disk are read in order; `items` counts them together with the ready ones.
3. An item that is given back goes to the head without a write: its row still exists. A restart finds it in its old
   place, which is near the head.
4. Waiters are served in order of arrival; a later reader is never served before them.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from enum import Enum
from typing import Protocol

from gateway.broker.config import QueueLimits
from gateway.broker.storage import checksum
from gateway.broker.storage.batch import StoredItem, Ticket
from gateway.broker.storage.inventory import StoredQueue, highest_id, lowest_id
from gateway.broker.storage.reader import WINDOW_BYTES, WINDOW_ITEMS, QueueRows, Window

log = logging.getLogger(__name__)

_LOW_ITEMS = WINDOW_ITEMS // 2
_DAMAGE_LINES = 5


class ReadMode(Enum):
    """What a reader does with the item: removes it, holds it open, or peeks at it."""

    TAKE = 1
    OPEN = 2
    PEEK = 3


class OpenItem:
    """One item set aside for one session. `live` until it is settled, timed out, or its queue is deleted."""

    __slots__ = ("item", "live", "opened_s", "queue")

    def __init__(self, queue: PersistentQueue, item: StoredItem, opened_s: float) -> None:
        self.queue = queue
        self.item = item
        self.opened_s = opened_s
        self.live = True


class WaitingRead(Protocol):
    """Waits for an item. `patient`: waits for items to arrive; otherwise it waits only for the disk."""

    mode: ReadMode
    patient: bool

    def receive(self, item: StoredItem, read: OpenItem | None, ticket: Ticket | None) -> None: ...
    def nothing(self, error: str | None) -> None: ...


class Journal(Protocol):
    """What a queue needs of the disk and of the other queues."""

    def put_item(self, queue: PersistentQueue, item: StoredItem) -> Ticket: ...
    def remove(self, queue: PersistentQueue, item: StoredItem) -> Ticket: ...
    def discard(self, item: StoredItem) -> None: ...
    def recount(self, queue: PersistentQueue) -> None: ...
    def purge(self, queue: PersistentQueue, spans: list[tuple[int, int]], *, drop: bool) -> Ticket | None: ...
    def read_ahead(self, queue: PersistentQueue, generation: int, after: int, upto: int) -> None: ...
    def expire(self, queue: PersistentQueue, item: StoredItem) -> bool: ...
    def now(self) -> float: ...


class PersistentQueue:
    """A queue by name. `number` is its key on disk."""

    def __init__(self, name: bytes, number: int, limits: QueueLimits, journal: Journal) -> None:
        self.name = name
        self.number = number
        self.journal = journal
        self.limits = limits
        self.max_age_ms = int(limits.max_age * 1000)
        self.seed = checksum.seed(name)
        self.unchecked = 0  # rows up to this id may have no checksum
        self.stored = False  # whether its row is known to be on disk
        self.creation: Ticket | None = None  # of the batch that will write its row
        self.deleted = False
        # on disk
        self.last_id = lowest_id(number)  # the highest id given to an item
        self.visible_id = self.last_id  # the highest id committed
        self.cursor = self.last_id  # every committed row up to here was read into memory
        self.generation = 0  # a read-ahead from an older generation is dropped
        self.loading = False
        # in memory
        self.ready: deque[StoredItem] = deque()
        self.ready_bytes = 0
        self.open_reads: dict[OpenItem, None] = {}
        self.open_bytes = 0
        self.waiters: OrderedDict[WaitingRead, None] = OrderedDict()
        # counts
        self.items = 0
        self.bytes = 0
        self.pending = 0
        self.pending_bytes = 0
        self.total_items = 0
        self.expired_items = 0
        self.discarded = 0
        self.damaged = 0  # items that are damaged or missing, and not delivered
        self.transactions = 0
        self.canceled_transactions = 0
        self.total_flushes = 0
        self.age_reference_ms = 0

    def __repr__(self) -> str:
        counts = f"items={self.items} open={len(self.open_reads)} waiters={len(self.waiters)}"
        return f"<PersistentQueue {self.name!r} {counts}>"

    def restore(self, found: StoredQueue) -> None:
        """Sets the state that a start found on disk, without reading items."""
        self.stored = True
        self.items, self.bytes, self.total_items = found.items, found.bytes, found.ever
        self.last_id = self.visible_id = found.last_id
        self.unchecked = found.unchecked

    @property
    def source(self) -> QueueRows:
        return QueueRows(self.number, self.seed, self.unchecked)

    def configure(self, limits: QueueLimits) -> None:
        """Sets new limits; they apply to existing items, too."""
        self.limits = limits
        self.max_age_ms = int(limits.max_age * 1000)

    @property
    def behind(self) -> bool:
        """Whether there may be items that are only on disk."""
        return self.cursor < self.visible_id

    @property
    def is_child(self) -> bool:
        return b"+" in self.name

    # Putting

    def refuses(self, size: int) -> bool:
        """Whether an item of `size` bytes is refused. A queue that discards old items does so when the item is
        committed."""
        limits = self.limits
        if size > limits.max_item_bytes:
            return True
        if limits.discard_old_when_full:
            return False
        return self.items + self.pending >= limits.max_items or self.bytes + self.pending_bytes >= limits.max_bytes

    def make(self, data: bytes, expires_ms: int) -> StoredItem:
        """A new item with the next id, on its way to disk. Raises OverflowError after 2**40 items."""
        if self.last_id >= highest_id(self.number):
            raise OverflowError(f"queue {self.name!r} has used up its ids")
        self.last_id += 1
        self.pending += 1
        self.pending_bytes += len(data)
        added_ms = int(self.journal.now() * 1000)
        sum_ = checksum.of_item(self.seed, self.last_id, added_ms, expires_ms, data)
        return StoredItem(self.last_id, added_ms, expires_ms, data, sum_)

    def put(self, data: bytes, expires_ms: int) -> Ticket:
        """Adds to the tail; the ticket is settled when it is on disk. The caller has called `refuses`."""
        return self.journal.put_item(self, self.make(data, expires_ms))

    def created(self) -> None:
        """The queue's row is on disk."""
        self.stored = True

    def checked(self) -> None:
        """Every item on disk has a checksum."""
        self.unchecked = 0

    def placed(self, item: StoredItem) -> None:
        """The item is on disk and can be read from now on."""
        if self.deleted:
            return
        self._settle_pending(item)
        behind = self.cursor < self.visible_id
        self.visible_id = item.id
        self.items += 1
        self.bytes += len(item.data)
        self.total_items += 1
        if not behind and (
            not self.ready or (len(self.ready) < WINDOW_ITEMS and self.ready_bytes + len(item.data) <= WINDOW_BYTES)
        ):
            self.cursor = item.id
            self.ready.append(item)
            self.ready_bytes += len(item.data)
        if self.limits.discard_old_when_full:
            self._discard_oldest(len(item.data))

    def not_placed(self, item: StoredItem) -> None:
        """The item did not reach the disk; its `set` gets an error."""
        self._settle_pending(item)

    def _settle_pending(self, item: StoredItem) -> None:
        self.pending -= 1
        self.pending_bytes -= len(item.data)

    def _discard_oldest(self, newest_bytes: int) -> None:
        """Drops items from the head until the newest one fits; rows that are only on disk follow when they are read."""
        limits = self.limits
        while self.head() is not None and (
            self.items > limits.max_items or self.bytes - newest_bytes >= limits.max_bytes
        ):
            self.discarded += 1
            self.journal.discard(self._pop())

    # Reading

    def head(self) -> StoredItem | None:
        """The first ready item after dropping expired ones; None if memory has none. Reads ahead if there are few."""
        if self.max_age_ms or (self.ready and self.ready[0].expires_ms):
            self.drop_expired()
        if self.cursor < self.visible_id and not self.loading and self._low():
            self.loading = True
            self.journal.read_ahead(self, self.generation, self.cursor, self.visible_id)
        return self.ready[0] if self.ready else None

    def _low(self) -> bool:
        return len(self.ready) < _LOW_ITEMS and self.ready_bytes < WINDOW_BYTES // 2

    def read(self, mode: ReadMode) -> tuple[StoredItem, OpenItem | None, Ticket | None] | None:
        """The head, read as `mode` says, or None. Only for the first in order: waiters come before."""
        if self.limits.open_transaction_timeout and self.items and mode is not ReadMode.PEEK:
            self._time_out_oldest_read()
        item = self.head()
        if item is None:
            return None
        if mode is ReadMode.PEEK:
            return item, None, None
        self._pop()
        if mode is ReadMode.TAKE:
            return item, None, self.journal.remove(self, item)
        self.transactions += 1
        read = OpenItem(self, item, self.journal.now())
        self.open_reads[read] = None
        self.open_bytes += len(item.data)
        return item, read, None

    def _pop(self) -> StoredItem:
        item = self.ready.popleft()
        size = len(item.data)
        self.ready_bytes -= size
        self.items -= 1
        self.bytes -= size
        self.age_reference_ms = item.added_ms
        return item

    def loaded(self, generation: int, window: Window) -> None:
        """The result of reading ahead: the rows above the cursor."""
        self.loading = False
        if generation == self.generation:
            self.ready.extend(window.items)
            self.ready_bytes += sum(len(item.data) for item in window.items)
            self.cursor = window.upto
            self._leave_out(window)
            if self.limits.discard_old_when_full:
                self._discard_oldest(1)
        self.serve()
        if self.head() is None and not self.loading:
            self._dismiss(None)

    def _leave_out(self, window: Window) -> None:
        """Reports rows that are damaged, and rows that should exist but do not. They stay in the file as they are."""
        for damage in window.damaged[:_DAMAGE_LINES]:
            log.error("queue %r: a job is damaged and is not delivered: %s", self.name, damage)
        if len(window.damaged) > _DAMAGE_LINES:
            log.error("queue %r: %d more are damaged", self.name, len(window.damaged) - _DAMAGE_LINES)
        rows = sum(damage.first == damage.last for damage in window.damaged)
        self.damaged += rows
        counted, found = self.items - rows, len(self.ready)
        self.items = max(counted, found)
        is_all = self.cursor >= self.visible_id
        if counted < found or (is_all and (counted, self.bytes) != (found, self.ready_bytes)):
            self.journal.recount(self)
        if is_all:
            if counted > found:
                log.error(
                    "queue %r: %d jobs that it should hold are not in the file: they are lost",
                    self.name,
                    counted - found,
                )
                self.damaged += counted - found
            self.items, self.bytes = found, self.ready_bytes

    def not_loaded(self, error: str) -> None:
        """Reading ahead failed: waiters that only wait for the disk get the error, the others keep waiting."""
        self.loading = False
        self._dismiss(error)

    # Waiting

    @property
    def starved(self) -> bool:
        """Whether the disk is being read while memory is empty: an answer now could be wrong."""
        return self.loading and not self.ready

    def join(self, waiter: WaitingRead) -> None:
        """Waits behind all current waiters, until served or until `leave`."""
        self.waiters[waiter] = None

    def leave(self, waiter: WaitingRead) -> None:
        self.waiters.pop(waiter, None)

    def serve(self) -> None:
        """Gives ready items to waiters, in order."""
        while self.waiters:
            waiter = next(iter(self.waiters))
            found = self.read(waiter.mode)
            if found is None:
                break
            self.waiters.popitem(last=False)
            waiter.receive(*found)

    def _dismiss(self, error: str | None) -> None:
        """Ends the waits of those that only wait for the disk; patient waiters stay."""
        for waiter in [waiter for waiter in self.waiters if not waiter.patient]:
            del self.waiters[waiter]
            waiter.nothing(error)

    def evict(self) -> None:
        """Ends every wait without an item."""
        waiters, self.waiters = self.waiters, OrderedDict()
        for waiter in waiters:
            waiter.nothing(None)

    # Settling

    def confirm(self, read: OpenItem) -> Ticket | None:
        """Removes the item; the ticket is settled when its row is gone. None if the read is no longer live."""
        if not read.live:
            return None
        self._close(read)
        return self.journal.remove(self, read.item)

    def give_back(self, read: OpenItem) -> None:
        """Makes the item the head again, and gives it to a waiter at once. Does nothing if the read is not live."""
        if not read.live:
            return
        self._close(read)
        self.canceled_transactions += 1
        self._return(read.item)
        self.serve()

    def not_removed(self, item: StoredItem) -> None:
        """The removal failed: the item is the head again."""
        if not self.deleted:
            self._return(item)
            self.serve()

    def _return(self, item: StoredItem) -> None:
        self.ready.appendleft(item)
        size = len(item.data)
        self.ready_bytes += size
        self.items += 1
        self.bytes += size

    def _close(self, read: OpenItem) -> None:
        read.live = False
        del self.open_reads[read]
        self.open_bytes -= len(read.item.data)

    def _time_out_oldest_read(self) -> None:
        """Only the oldest read, and only if a read finds the queue not empty. Source: transcript 20d."""
        read = next(iter(self.open_reads), None)
        if read is not None and self.journal.now() - read.opened_s > self.limits.open_transaction_timeout:
            self._close(read)
            self.canceled_transactions += 1
            self._return(read.item)

    # Expiry and emptying

    def _is_expired(self, item: StoredItem, now_ms: float) -> bool:
        expires_ms = item.expires_ms
        if self.max_age_ms:
            limit = item.added_ms + self.max_age_ms
            expires_ms = min(expires_ms, limit) if expires_ms else limit
        return bool(expires_ms) and expires_ms < now_ms

    def drop_expired(self) -> int:
        """Removes expired items from the head, to `expire_to_queue` if that is set; returns how many."""
        now_ms = self.journal.now() * 1000
        count = 0
        while self.ready and self._is_expired(self.ready[0], now_ms):
            reference = self.age_reference_ms
            item = self._pop()
            self.age_reference_ms = reference
            if not (self.limits.expire_to_queue and self.journal.expire(self, item)):
                self.journal.discard(item)
            count += 1
        self.expired_items += count
        return count

    def flush(self) -> Ticket | None:
        """Removes every ready item; open reads and items on their way to disk stay. Ticket: the rows are gone."""
        self.total_flushes += 1
        spans = self._spans(self.visible_id)
        self.generation += 1
        self.cursor = self.visible_id
        self._empty()
        return self.journal.purge(self, spans, drop=False)

    def delete(self) -> Ticket | None:
        """Deletes the queue: waiters get nothing, open reads are void. The ticket is settled when that is on disk."""
        for read in self.open_reads:
            read.live = False
        self.open_reads.clear()
        self.open_bytes = 0
        self.deleted = True
        self.generation += 1
        self.cursor = self.visible_id
        self._empty()
        ticket = self.journal.purge(self, [(lowest_id(self.number), highest_id(self.number))], drop=True)
        self.evict()
        return ticket

    def _empty(self) -> None:
        self.ready.clear()
        self.ready_bytes = self.items = self.bytes = 0

    def _spans(self, upto: int) -> list[tuple[int, int]]:
        """The ids up to `upto`, except those of open reads."""
        spans = []
        low = lowest_id(self.number) + 1
        for kept in sorted(read.item.id for read in self.open_reads):
            if low < kept:
                spans.append((low, kept - 1))
            low = kept + 1
        if low <= upto:
            spans.append((low, upto))
        return spans
