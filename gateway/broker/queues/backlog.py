"""The items of one queue that no client has read: the first of them in memory, the rest only on disk. No I/O.

Invariants
1. The items in `ready` come before every row above `cursor`. Rows above `cursor` are read from disk in order of ids.
2. `items` and `bytes` count the items in memory and the rows that are only on disk.
3. An item that was read and is put back becomes the first; its row still exists.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable

from gateway.broker.storage import checksum
from gateway.broker.storage.batch import LargeItem, StoredItem
from gateway.broker.storage.inventory import StoredQueue, highest_id, lowest_id
from gateway.broker.storage.large.format import Reference
from gateway.broker.storage.reader import WINDOW_BYTES, WINDOW_ITEMS, QueueRows, Window
from gateway.common.counted import counted

log = logging.getLogger(__name__)

SUMMED_BYTES = 1 << 18
"""A larger item is summed by the thread that writes it, without the interpreter's lock: 60 MiB take 20 to 60 ms."""
_LOW_ITEMS = WINDOW_ITEMS // 2
_DAMAGE_LINES = 5


class Backlog:
    """The items in order, and how far memory has read the disk. `number` is the queue's key on disk."""

    __slots__ = (
        "_highest_id",
        "_name",
        "age_reference_ms",
        "bytes",
        "cursor",
        "damaged",
        "generation",
        "items",
        "last_id",
        "loading",
        "number",
        "ready",
        "ready_bytes",
        "seed",
        "unchecked",
        "visible_id",
    )

    def __init__(self, name: bytes, number: int, found: StoredQueue | None) -> None:
        """found: what a start found on disk; no item is read."""
        self._name = name
        self.number = number
        self.seed = checksum.seed(name)
        self._highest_id = highest_id(number)
        # on disk
        self.last_id = found.last_id if found else lowest_id(number)  # the highest id given to an item
        self.visible_id = self.last_id  # the highest id committed
        self.cursor = lowest_id(number)  # every committed row up to here was read into memory
        self.unchecked = found.unchecked if found else 0  # rows up to this id may have no checksum
        self.generation = 0  # a read-ahead from an older generation is dropped
        self.loading = False
        # in memory
        self.ready: deque[StoredItem] = deque()
        self.ready_bytes = 0
        # both
        self.items = found.items if found else 0
        self.bytes = found.bytes if found else 0
        self.age_reference_ms = 0  # when the last item that was read was added; 0 before the first

    def new_item(self, data: bytes, added_ms: int, expires_ms: int, reference: Reference | None = None) -> StoredItem:
        """An item with the next id, which is not part of the backlog yet. Raises OverflowError after 2**40 items.

        reference: of the data, if it is on disk in parts.
        """
        if self.last_id >= self._highest_id:
            raise OverflowError(f"queue {self._name!r} has used up its ids")
        self.last_id += 1
        large = len(data) > SUMMED_BYTES
        if reference is not None:
            return LargeItem(self.last_id, added_ms, expires_ms, data, seed=self.seed, reference=reference)
        sum_ = ~self.seed if large else checksum.of_item(self.seed, self.last_id, added_ms, expires_ms, data)
        return StoredItem(self.last_id, added_ms, expires_ms, data, sum_)

    # The order

    def append(self, item: StoredItem) -> None:
        """The item is on disk: it is the last one. Memory keeps it if it has read everything before it, and has
        room."""
        size = len(item.data)
        behind = self.cursor < self.visible_id
        self.visible_id = item.id
        self.items += 1
        self.bytes += size
        ready = self.ready
        if not behind and (not ready or (len(ready) < WINDOW_ITEMS and self.ready_bytes + size <= WINDOW_BYTES)):
            self.cursor = item.id
            ready.append(item)
            self.ready_bytes += size

    def pop(self) -> StoredItem:
        """Takes the first item, which is in memory."""
        item = self.ready.popleft()
        size = len(item.data)
        self.ready_bytes -= size
        self.items -= 1
        self.bytes -= size
        self.age_reference_ms = item.added_ms
        return item

    def push_front(self, *items: StoredItem) -> None:
        """Items that were read are the first again, in this order."""
        self.ready.extendleft(reversed(items))
        size = sum([len(item.data) for item in items])
        self.ready_bytes += size
        self.items += len(items)
        self.bytes += size

    def skip_all(self) -> None:
        """Leaves out every item up to now; their rows are removed in another way."""
        self.generation += 1
        self.cursor = self.visible_id
        self.ready.clear()
        self.ready_bytes = self.items = self.bytes = 0

    # Reading from disk

    @property
    def behind(self) -> bool:
        """Whether there may be items that are only on disk."""
        return self.cursor < self.visible_id

    @property
    def starved(self) -> bool:
        """Whether the disk is being read while memory is empty: an answer now could be wrong."""
        return self.loading and not self.ready

    @property
    def low(self) -> bool:
        """Whether memory has so few items that more should be read."""
        return len(self.ready) < _LOW_ITEMS and self.ready_bytes < WINDOW_BYTES // 2

    @property
    def rows(self) -> QueueRows:
        """Where its items are on disk."""
        return QueueRows(self.number, self.seed, self.unchecked)

    def extend(self, window: Window) -> bool:
        """Adds the rows that follow the cursor. Returns whether the counters on disk are right.

        Reports rows that are damaged, and rows that should exist but do not. They stay in the file as they are.
        """
        self.ready.extend(window.items)
        self.ready_bytes += sum(len(item.data) for item in window.items)
        self.cursor = window.upto
        self._report(window)
        rows = sum(damage.first == damage.last for damage in window.damaged)
        expected, found = self.items - rows, len(self.ready)
        self.items = max(expected, found)
        if self.behind:
            return expected >= found
        right = (expected, self.bytes) == (found, self.ready_bytes)
        if expected > found:
            log.error(
                "queue %r: %s not in the file, and lost",
                self._name,
                counted(expected - found, "job that it should hold is", "jobs that it should hold are"),
            )
        self.items, self.bytes = found, self.ready_bytes
        return right

    def _report(self, window: Window) -> None:
        for damage in window.damaged[:_DAMAGE_LINES]:
            log.error("queue %r: a job is damaged and is not delivered: %s", self._name, damage)
        if len(window.damaged) > _DAMAGE_LINES:
            more = counted(len(window.damaged) - _DAMAGE_LINES, "more job is", "more jobs are")
            log.error("queue %r: %s damaged", self._name, more)

    def checked(self) -> None:
        """Every row on disk has a checksum."""
        self.unchecked = 0

    def spans(self, kept: Iterable[int]) -> list[tuple[int, int]]:
        """The ranges of ids of every committed row, without those in `kept`, which increase."""
        found = []
        low = lowest_id(self.number) + 1
        for id_ in kept:
            if low < id_:
                found.append((low, id_ - 1))
            low = id_ + 1
        if low <= self.visible_id:
            found.append((low, self.visible_id))
        return found
