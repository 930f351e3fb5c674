"""What goes to disk in one transaction, and the tickets that answers wait on. No I/O, no threads.

A batch has two halves that can fail apart. `puts` holds what needs room: new items, moves, settings. `removals` holds
what gives room back. When the disk is full the puts fail and the removals are tried by themselves, so acks go on.
An item that cannot be kept for a reason of its own is refused alone.

Invariants
1. A ticket is settled once, after its half was committed or rolled back, never before.
2. A batch is filled on the event loop, is handed to the writer whole, and is not touched by the loop until it is back.
3. Chores (removals nobody waits for, purges, drops) are repeated in the next batch until they succeed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Protocol

SEQUENCE_BITS = 40
"""An item's id is its queue's number above, its place in the queue below: one B-tree, a queue is one range of it."""


class Item:
    """One stored item. Immutable by convention; a plain slotted class because a hundred thousand a second are made.

    `added_ms` and `expires_ms` are wall-clock milliseconds; `expires_ms` 0 is never. `checksum`: checksum.of_item.
    """

    __slots__ = ("added_ms", "checksum", "data", "expires_ms", "id")

    def __init__(self, id_: int, added_ms: int, expires_ms: int, data: bytes, checksum: int) -> None:
        self.id = id_
        self.added_ms = added_ms
        self.expires_ms = expires_ms
        self.data = data
        self.checksum = checksum

    def __repr__(self) -> str:
        return f"<Item {self.id >> SEQUENCE_BITS}:{self.id & ((1 << SEQUENCE_BITS) - 1)} {len(self.data)} bytes>"


class Holder(Protocol):
    """Who holds an answer back until a ticket is settled."""

    def release(self) -> None: ...


class ItemOwner(Protocol):
    """Where an item lives: told what became of it on disk."""

    def created(self) -> None: ...
    def checked(self) -> None: ...
    def placed(self, item: Item) -> None: ...
    def not_placed(self, item: Item) -> None: ...
    def not_removed(self, item: Item) -> None: ...
    def serve(self) -> None: ...


class Ticket:
    """Stands for a part of a commit: `done` once it was written or has failed; `error` says why.

    `refused`: the ids of the items that alone were not written, where the rest was.
    """

    __slots__ = ("done", "error", "holders", "refused")

    def __init__(self) -> None:
        self.done = False
        self.error: str | None = None
        self.refused: Collection[int] = ()
        self.holders: dict[Holder, None] = {}

    def settle(self, error: str | None, refused: Collection[int] = ()) -> None:
        """Marks it done; the holders are released by the committer once all tickets of the batch are settled."""
        assert not self.done
        self.done = True
        self.error = error
        self.refused = refused


class Purge:
    """The rows in `spans` (lowest and highest id) of a queue are to go; with `drop` its own row goes last."""

    __slots__ = ("drop", "number", "spans", "ticket")

    def __init__(
        self, number: int, spans: list[tuple[int, int]], *, drop: bool = False, ticket: Ticket | None = None
    ) -> None:
        self.number = number
        self.spans = spans
        self.drop = drop
        self.ticket = ticket or Ticket()


class Unchecked:
    """The items of a queue above `after` that have no checksum yet get one; `owner` hears of it when none is left."""

    __slots__ = ("after", "name", "number", "owner")

    def __init__(self, owner: ItemOwner, number: int, name: bytes, after: int) -> None:
        self.owner = owner
        self.number = number
        self.name = name
        self.after = after


class Batch:
    """The changes of one transaction, in the form the database wants them."""

    __slots__ = (
        "chores",
        "created",
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
    )

    def __init__(self) -> None:
        self.puts = Ticket()
        self.removals = Ticket()
        # puts
        self.created: dict[int, tuple[bytes, ItemOwner]] = {}
        self.rows: list[int | bytes] = []  # id, added_ms, expires_ms, data, checksum; id, ...
        self.put_bytes = 0
        self.placed: list[tuple[ItemOwner, Item]] = []
        self.moves: list[tuple[int, int, int, int, int]] = []  # new id, added_ms, expires_ms, checksum, old id
        self.moved: list[tuple[ItemOwner, Item, ItemOwner, Item]] = []
        self.meta: dict[str, str] = {}
        self.put_counts: dict[int, list[int]] = {}  # queue number -> items, bytes, items ever
        self.unchecked: list[Unchecked] = []
        self.recounts: set[int] = set()  # numbers of queues
        # removals
        self.removed_ids: list[int] = []
        self.removed: list[tuple[ItemOwner, Item]] = []  # given back to their owner when they fail
        self.chores: list[Item] = []  # tried again when they fail
        self.purges: list[Purge] = []
        self.removal_counts: dict[int, list[int]] = {}

    @property
    def has_puts(self) -> bool:
        return bool(self.rows or self.moves or self.created or self.meta or self.unchecked or self.recounts)

    @property
    def has_removals(self) -> bool:
        return bool(self.removed_ids or self.purges)

    def create(self, owner: ItemOwner, number: int, name: bytes) -> Ticket:
        """The queue gets its row with this batch, unless it has one."""
        self.created[number] = (name, owner)
        return self.puts

    def put(self, owner: ItemOwner, item: Item) -> Ticket:
        """The item is written with this batch."""
        self.rows += (item.id, item.added_ms, item.expires_ms, item.data, item.checksum)
        self.placed.append((owner, item))
        size = len(item.data)
        self.put_bytes += size
        self._count(self.put_counts, item.id >> SEQUENCE_BITS, 1, size, 1)
        return self.puts

    def remove(self, owner: ItemOwner, item: Item) -> Ticket:
        """The item's row goes with this batch; when that fails the item is given back to its owner."""
        self.removed.append((owner, item))
        return self._remove(item)

    def sweep(self, item: Item) -> None:
        """The item's row goes with this batch, or with a later one."""
        self.chores.append(item)
        self._remove(item)

    def _remove(self, item: Item) -> Ticket:
        self.removed_ids.append(item.id)
        self._count(self.removal_counts, item.id >> SEQUENCE_BITS, -1, -len(item.data), 0)
        return self.removals

    def move(self, source: ItemOwner, old: Item, target: ItemOwner, new: Item) -> None:
        """The row of `old` becomes `new`, in another queue, in one step."""
        self.moves.append((new.id, new.added_ms, new.expires_ms, new.checksum, old.id))
        self.moved.append((source, old, target, new))
        size = len(old.data)
        self._count(self.put_counts, old.id >> SEQUENCE_BITS, -1, -size, 0)
        self._count(self.put_counts, new.id >> SEQUENCE_BITS, 1, size, 1)

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
        """The same changes in batches of one each, in an order in which they may be made; with the item's id, or 0."""
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
            piece.sweep(item)
            yield item.id, piece
        for purge in self.purges:
            piece = Batch()
            piece.purges.append(purge)
            yield 0, piece
        for unchecked in self.unchecked:
            piece = Batch()
            piece.unchecked.append(unchecked)
            yield 0, piece
