"""The changes of one transaction, and the tickets that answers wait for. No I/O, no threads.

A batch has two halves that can fail separately. `puts` are changes that need space: new items, moves, settings.
`removals` are changes that free space. On a full disk the puts fail and the removals are tried alone, so acks continue.
An item that cannot be stored for a reason of its own is refused alone.

Invariants
1. A ticket is settled once, after its half was committed or rolled back, never before.
2. A batch is filled on the event loop, passed to the writer as a whole, and not touched by the loop until it is back.
3. Chores (removals without a waiting client, purges, drops) that fail with their half are tried again by
   `Committer.sweep_chores`, once a second, until they succeed. One that fails alone, because of its own row, is logged
   and given up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Protocol, TypeAlias

from gateway.broker.storage.checksum import of_item
from gateway.broker.storage.large.format import LARGE_BYTES, Reference

SEQUENCE_BITS = 40
"""An item's id is its queue's number in the upper bits and its position in the lower: a queue is one range of a
B-tree."""


class StoredItem:
    """One stored item. Immutable by convention; a plain slotted class because a hundred thousand are made per second.

    `added_ms` and `expires_ms` are wall-clock milliseconds; `expires_ms` 0 means never. `checksum`: checksum.of_item;
    of an item above SUMMED_BYTES (broker.queues.backlog) the complement of its seed, below 0, until the writer has
    summed it.
    """

    __slots__ = ("added_ms", "checksum", "data", "expires_ms", "id")

    def __init__(self, id_: int, added_ms: int, expires_ms: int, data: bytes, checksum: int) -> None:
        self.id = id_
        self.added_ms = added_ms
        self.expires_ms = expires_ms
        self.data = data
        self.checksum = checksum

    def __repr__(self) -> str:
        return f"<StoredItem {self.id >> SEQUENCE_BITS}:{self.id & ((1 << SEQUENCE_BITS) - 1)} {len(self.data)} bytes>"


class LargeItem(StoredItem):
    """An item whose bytes are in parts on disk, and its row has a reference. Its checksum is over the reference."""

    __slots__ = ("reference",)

    def __init__(
        self, id_: int, added_ms: int, expires_ms: int, data: bytes, *, seed: int, reference: Reference
    ) -> None:
        """seed: of the queue's checksums."""
        super().__init__(id_, added_ms, expires_ms, data, of_item(seed, id_, added_ms, expires_ms, reference.sealed))
        self.reference = reference


Row: TypeAlias = list[int | bytes | str]


def reference_of(item: StoredItem) -> Reference | None:
    """The reference of a large item; None if its bytes are in its row."""
    return item.reference if isinstance(item, LargeItem) else None


def _summed(item: StoredItem) -> int:
    """The item's checksum, computed now if it is not yet."""
    if item.checksum < 0:
        item.checksum = of_item(~item.checksum, item.id, item.added_ms, item.expires_ms, item.data)
    return item.checksum


class AnswerHolder(Protocol):
    """Holds an answer back until a ticket is settled."""

    def release(self) -> None: ...


class ItemOwner(Protocol):
    """The owner of an item. It is informed of what happened to the item on disk."""

    def created(self) -> None: ...
    def placed(self, item: StoredItem) -> None: ...
    def not_placed(self, item: StoredItem) -> None: ...
    def not_removed(self, item: StoredItem) -> None: ...
    def serve(self) -> object: ...


class JoinedPut(Protocol):
    """A put that came into the batch after its large items were written. It has a ticket of its own."""

    ticket: Ticket

    def settle(self, error: str | None, refused: Collection[int]) -> None: ...


class ChecksumOwner(Protocol):
    """The owner of rows without checksums. It is informed when every row has one."""

    def checked(self) -> None: ...


class Ticket:
    """A part of a commit: `done` when it was written or has failed; `error` says why it failed.

    `refused`: the ids of items that alone were not written, although the rest was.
    """

    __slots__ = ("done", "error", "holders", "refused")

    def __init__(self) -> None:
        self.done = False
        self.error: str | None = None
        self.refused: Collection[int] = ()
        self.holders: dict[AnswerHolder, None] = {}

    def settle(self, error: str | None, refused: Collection[int] = ()) -> None:
        """Marks it done. The committer releases the holders when all tickets of the batch are settled."""
        assert not self.done
        self.done = True
        self.error = error
        self.refused = refused

    def release(self) -> None:
        """Sends the answers that wait for it, which is settled."""
        holders, self.holders = self.holders, {}
        for holder in holders:
            holder.release()


class Purge:
    """Removes the rows in `spans` (lowest and highest id) of a queue; with `drop` also its own row, last."""

    __slots__ = ("drop", "number", "spans", "ticket")

    def __init__(
        self, number: int, spans: list[tuple[int, int]], *, drop: bool = False, ticket: Ticket | None = None
    ) -> None:
        self.number = number
        self.spans = spans
        self.drop = drop
        self.ticket = ticket or Ticket()


class Unchecked:
    """Adds checksums to the items of a queue above `after` that have none; `owner` is informed when all have one."""

    __slots__ = ("after", "name", "number", "owner")

    def __init__(self, owner: ChecksumOwner, number: int, name: bytes, after: int) -> None:
        self.owner = owner
        self.number = number
        self.name = name
        self.after = after


class Batch:
    """The changes of one transaction, in the form that the database needs."""

    __slots__ = (
        "chores",
        "created",
        "freed",
        "late",
        "meta",
        "moved",
        "moves",
        "placed",
        "purges",
        "put_bytes",
        "put_counts",
        "puts",
        "recounts",
        "removal_counts",
        "removals",
        "removed",
        "removed_ids",
        "rows",
        "unchecked",
        "unsummed",
        "used",
    )

    def __init__(self) -> None:
        self.puts = Ticket()
        self.removals = Ticket()
        # puts
        self.created: dict[int, tuple[bytes, ItemOwner]] = {}
        self.rows: Row = []  # id, added_ms, expires_ms, data or reference, checksum; id, ...
        self.used: list[int] = []  # the numbers of large items that get their rows
        self.late: list[JoinedPut] = []
        self.unsummed: list[tuple[int, StoredItem]] = []  # where in `rows` the writer puts a checksum, and its item
        self.put_bytes = 0
        self.placed: list[tuple[ItemOwner, StoredItem]] = []
        self.moves: list[tuple[int, int, int, int, int]] = []  # new id, added_ms, expires_ms, checksum, old id
        self.moved: list[tuple[ItemOwner, StoredItem, ItemOwner, StoredItem]] = []
        self.meta: dict[str, str] = {}
        self.put_counts: dict[int, list[int]] = {}  # queue number -> items, bytes, items ever
        self.unchecked: list[Unchecked] = []
        self.recounts: set[int] = set()  # numbers of queues
        # removals
        self.removed_ids: list[int] = []
        self.freed: list[int] = []  # the numbers of large items that lose their rows
        self.removed: list[tuple[ItemOwner, StoredItem]] = []  # given back to their owner if they fail
        self.chores: list[StoredItem] = []  # tried again if they fail
        self.purges: list[Purge] = []
        self.removal_counts: dict[int, list[int]] = {}

    @property
    def has_puts(self) -> bool:
        return bool(self.rows or self.moves or self.created or self.meta or self.unchecked or self.recounts)

    @property
    def has_removals(self) -> bool:
        return bool(self.removed_ids or self.purges)

    def create(self, owner: ItemOwner, number: int, name: bytes) -> Ticket:
        """Adds the queue's row, unless it exists."""
        self.created[number] = (name, owner)
        return self.puts

    def put(self, owner: ItemOwner, *items: StoredItem) -> Ticket:
        """Adds the items, at least one, of one queue."""
        rows, size = self.rows, 0
        for item in items:
            data = item.data
            length = len(data)
            size += length
            self.placed.append((owner, item))
            if length > LARGE_BYTES and isinstance(item, LargeItem):
                self._put_large(item)
                continue
            rows += (item.id, item.added_ms, item.expires_ms, data, item.checksum)
            self.put_bytes += length
            if item.checksum < 0:
                self.unsummed.append((len(rows) - 1, item))
        self._count(self.put_counts, items[0].id >> SEQUENCE_BITS, len(items), size, len(items))
        return self.puts

    def _put_large(self, item: LargeItem) -> None:
        reference = item.reference
        self.rows += (item.id, item.added_ms, item.expires_ms, reference.pack().decode("ascii"), item.checksum)
        self.used.append(reference.number)

    def remove(self, owner: ItemOwner, item: StoredItem) -> Ticket:
        """Removes the item's row; if that fails, the item is given back to its owner."""
        self.removed.append((owner, item))
        return self._remove(item)

    def discard(self, item: StoredItem) -> None:
        """Removes the item's row with this batch or a later one."""
        self.chores.append(item)
        self._remove(item)

    def _remove(self, item: StoredItem) -> Ticket:
        self.removed_ids.append(item.id)
        if isinstance(item, LargeItem):
            self.freed.append(item.reference.number)
        self._count(self.removal_counts, item.id >> SEQUENCE_BITS, -1, -len(item.data), 0)
        return self.removals

    def move(self, source: ItemOwner, old: StoredItem, target: ItemOwner, new: StoredItem) -> None:
        """Changes the row of `old` to `new`, in another queue, in one step."""
        self.moves.append((new.id, new.added_ms, new.expires_ms, new.checksum, old.id))
        self.moved.append((source, old, target, new))
        size = len(old.data)
        self._count(self.put_counts, old.id >> SEQUENCE_BITS, -1, -size, 0)
        self._count(self.put_counts, new.id >> SEQUENCE_BITS, 1, size, 1)

    def compute_checksums(self) -> None:
        """Computes the checksums that the loop left out: it would stop for long. The writer calls it."""
        for at, item in self.unsummed:
            self.rows[at] = _summed(item)
        self.unsummed.clear()
        for at, (_, old, _, new) in enumerate(self.moved):
            if new.checksum < 0:
                self.moves[at] = new.id, new.added_ms, new.expires_ms, _summed(new), old.id

    @staticmethod
    def _count(counts: dict[int, list[int]], number: int, items: int, size: int, ever: int) -> None:
        found = counts.get(number)
        if found is None:
            counts[number] = [items, size, ever]
        else:
            found[0] += items
            found[1] += size
            found[2] += ever

    def pieces(self) -> Iterator[tuple[int, Batch]]:
        """The same changes as batches of one change each, in a valid order; with the item's id, or 0."""
        first = Batch()
        first.created, first.meta, first.recounts = self.created, self.meta, self.recounts
        yield 0, first
        for owner, item in self.placed:
            piece = Batch()
            piece.put(owner, item)
            yield item.id, piece
        for source, old, target, new in self.moved:
            piece = Batch()
            piece.move(source, old, target, new)
            yield new.id, piece
        for item in [item for _, item in self.removed] + self.chores:
            piece = Batch()
            piece.discard(item)
            yield item.id, piece
        for purge in self.purges:
            piece = Batch()
            piece.purges.append(purge)
            yield 0, piece
        for unchecked in self.unchecked:
            piece = Batch()
            piece.unchecked.append(unchecked)
            yield 0, piece
