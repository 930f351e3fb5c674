"""What the writer does between batches: it writes large items and deletes parts, one after the other. Only on the loop.

Invariants
1. Puts of one queue are stored in the order in which they came: one that comes behind a large item waits until the item
   is complete, and gets its place in the queue then. Puts of other queues do not wait.
2. One large item is written at a time. Writing and deleting alternate, so a full disk gets room while items wait.
3. A late put is in its queues' orders until its items are in a batch, or it has failed. Its ticket is settled once.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol, TypeAlias

from gateway.broker.storage.batch import ItemOwner, Ticket
from gateway.broker.storage.large.data import LargeData
from gateway.broker.storage.large.format import LARGE_BYTES, Reference
from gateway.broker.storage.large.parts import PartOutcome

log = logging.getLogger(__name__)

WAITING_BYTES: Final = 64 << 20

Written: TypeAlias = Callable[[str | None], None]
"""Called when the writer is free again, with why the disk has failed."""


class PartThreads(Protocol):
    """Writes and deletes parts in a thread, and calls back on the loop."""

    def write_part(self, large: LargeData, done: Callable[[LargeData, PartOutcome], None]) -> None: ...
    def delete_parts(self, number: int, done: Callable[[int, PartOutcome], None]) -> None: ...


class PutTarget(ItemOwner, Protocol):
    """A queue that gets items. pending: items that are promised to it and are not in its backlog yet."""

    deleted: bool
    pending: int
    pending_bytes: int

    def put(
        self, entries: Sequence[tuple[bytes, int]], size: int, late: Sequence[Reference | None] | None = ...
    ) -> tuple[Ticket, int]: ...


class LatePut:
    """Items that are stored later, in every target or in none: large ones, or items behind a large one.

    entries: data and expiry in milliseconds. size: of the data. The last target is the queue whose items the answer is
    about. ticket: refuses the places of items, from 1 on, in place of their ids.
    """

    def __init__(self, targets: Sequence[PutTarget], entries: Sequence[tuple[bytes, int]], size: int) -> None:
        self.targets = targets
        self.entries = entries
        self.size = size
        self.ticket = Ticket()
        self._first_id = 0
        self._large = {target: [_large(data) for data, _ in entries] for target in targets}

    def __repr__(self) -> str:
        return f"<LatePut {len(self.entries)} items, {self.size} bytes>"

    @property
    def bytes(self) -> int:
        """Of all copies."""
        return self.size * len(self.targets)

    def next(self) -> LargeData | None:
        """The large item to write next; None if all are complete or not needed any more."""
        for target in self.targets:
            if not target.deleted:
                for large in self._large[target]:
                    if large is not None and not large.complete:
                        return large
        return None

    def promise(self, sign: int = 1) -> None:
        """Counts the items as on their way to their queues; with -1 they are not any more."""
        for target in self.targets:
            target.pending += sign * len(self.entries)
            target.pending_bytes += sign * self.size

    def join(self) -> list[int]:
        """Gives the items to the batch. Returns numbers whose parts are not needed: their queue was deleted meanwhile.

        Raises OverflowError after 2**40 items of a queue.
        """
        unused: list[int] = []
        for target in self.targets:
            if target.deleted:
                unused += self._numbers(target)
                continue
            late = [None if large is None else large.reference for large in self._large[target]]
            _, self._first_id = target.put(self.entries, self.size, late)
        return unused

    def numbers(self) -> list[int]:
        """The numbers under which parts are on disk."""
        return [number for target in self.targets for number in self._numbers(target)]

    def _numbers(self, target: PutTarget) -> list[int]:
        return [large.number for large in self._large[target] if large is not None and large.number]

    def settle(self, error: str | None, refused: Collection[int]) -> None:
        """The batch with its items is over."""
        if self.ticket.done:
            return
        places = range(1, len(self.entries) + 1) if refused else ()
        self.ticket.settle(error, [place for place in places if self._first_id + place - 1 in refused])

    def fail(self, error: str | None) -> None:
        """It was not stored; with None it was refused alone, and the disk works."""
        self.ticket.settle(error, range(1, len(self.entries) + 1) if error is None else ())


def _large(data: bytes) -> LargeData | None:
    return LargeData(data) if len(data) > LARGE_BYTES else None


class BatchOwner(Protocol):
    """Has the batch that late puts join, and the turns of the writer."""

    def joined(self, put: LatePut) -> None: ...
    def wake(self) -> None: ...


class LargeWork:
    """Late puts in order, and numbers whose parts belong to no item. True while there is something to do.

    unused: parts to delete. waiting_bytes: of late puts that are in no batch yet.
    """

    def __init__(self, threads: PartThreads, committer: BatchOwner) -> None:
        self._threads = threads
        self._committer = committer
        self._orders: dict[PutTarget, deque[LatePut]] = {}
        self._puts: deque[LatePut] = deque()  # that have large items to write
        self.unused: deque[int] = deque()
        self._failed: list[int] = []
        self._deleted_last = False
        self.waiting_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._puts or self.unused)

    def __repr__(self) -> str:
        return f"<LargeWork {len(self._puts)} puts, {len(self.unused)} deletions>"

    @property
    def full(self) -> bool:
        """Whether so many bytes wait that no further late put should be added."""
        return self.waiting_bytes > WAITING_BYTES

    def delays(self, targets: Sequence[PutTarget]) -> bool:
        """Whether a put must be late because one of its queues has late puts."""
        return bool(self._orders) and any(target in self._orders for target in targets)

    @property
    def first(self) -> Ticket | None:
        """The ticket of the put that is written now."""
        return self._puts[0].ticket if self._puts else None

    def add(self, put: LatePut) -> Ticket:
        """The put is the last one of its queues; it has a large item, or is behind one. Returns its ticket."""
        self.waiting_bytes += put.bytes
        put.promise()
        for target in put.targets:
            self._orders.setdefault(target, deque()).append(put)
        if put.next() is not None:
            self._puts.append(put)
        self._committer.wake()
        return put.ticket

    def delete(self, *numbers: int) -> None:
        """Deletes the parts of large items that no row needs, in the background."""
        if numbers:
            self.unused.extend(numbers)
            self._committer.wake()

    def retry(self) -> None:
        """Tries failed deletions again."""
        numbers, self._failed = self._failed, []
        self.delete(*numbers)

    def write_next(self, written: Written) -> bool:
        """Gives the writer the next part to write or to delete. Returns False if there is none."""
        while self._puts and self._puts[0].next() is None:  # its queues were deleted
            self._complete(self._puts.popleft())
        large = self._puts[0].next() if self._puts else None
        if self.unused and (large is None or not self._deleted_last):
            self._deleted_last = True
            self._threads.delete_parts(self.unused[0], lambda number, outcome: self._deleted(number, outcome, written))
        elif large is not None:
            self._deleted_last = False
            self._threads.write_part(large, lambda _, outcome: self._wrote(outcome, written))
        else:
            return False
        return True

    def _wrote(self, outcome: PartOutcome, written: Written) -> None:
        put = self._puts[0]
        if outcome.error is not None:
            self._puts.popleft()
            self._fail(put, outcome)
        elif put.next() is None:
            self._puts.popleft()
            self._complete(put)
        written(None if outcome.alone else outcome.error)
        if outcome.error is not None:
            put.ticket.release()

    def _fail(self, put: LatePut, outcome: PartOutcome) -> None:
        log.error("a large item is not stored: %s", outcome.error)
        put.promise(-1)
        put.fail(None if outcome.alone else outcome.error)
        self.unused.extend(put.numbers())
        heads = {order[0] for target in put.targets if (order := self._forget(target, put))}
        self.waiting_bytes -= put.bytes
        for head in heads:
            self._complete(head)

    def _forget(self, target: PutTarget, put: LatePut) -> deque[LatePut] | None:
        """Takes the put out of the order; returns what is left of the order."""
        order = self._orders[target]
        order.remove(put)
        if not order:
            del self._orders[target]
        return order or None

    def _complete(self, put: LatePut) -> None:
        """Gives the put to the batch if it is complete and the first of its queues; then what waited for it."""
        ready = [put]
        while ready:
            put = ready.pop()
            if put.next() is not None or not self._is_first(put):
                continue
            ready += [order[0] for target in put.targets if (order := self._forget(target, put))]
            self.waiting_bytes -= put.bytes
            self._join(put)

    def _is_first(self, put: LatePut) -> bool:
        """Whether it waits, and nothing of its queues is before it."""
        orders = [self._orders.get(target) for target in put.targets]
        return all(order is not None and order[0] is put for order in orders)

    def _join(self, put: LatePut) -> None:
        try:
            unused = put.join()
        except OverflowError as exc:
            log.error("an item is not stored: %s", exc)  # noqa: TRY400 - the reason is enough
            put.promise(-1)
            put.fail(None)
            unused = []  # a fanout child may have its item, so the next start deletes the parts
        self.unused.extend(unused)
        self._committer.joined(put)

    def _deleted(self, number: int, outcome: PartOutcome, written: Written) -> None:
        self.unused.popleft()
        if outcome.error is None:
            if not outcome.finished:
                self.unused.appendleft(number)
        elif outcome.alone:
            log.error("parts of a removed item stay in the file until the next start: %s", outcome.error)
        else:
            self._failed.append(number)
        written(outcome.error if outcome.error is not None and not outcome.alone else None)
