"""Reads the rows of a queue in order, and leaves out damaged ones. One connection, for one thread; never writes.

A row whose checksum fails is left out and reported. A place in the tree that SQLite cannot read is left out, too, up to
the next one that it can read. A damaged tree can also lead SQLite back to rows that it has returned: at the first id
that is not above the one before, the reader stops and searches again above the highest. So it reads each id at most
once. Nothing is removed: damaged rows stay in the file, for `broker check` and for a repair.

A large item is a window of its own, and is read in steps of a few parts: between them the thread can do other reads,
and no statement keeps an old state of the file, which would let its log grow.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from struct import error
from typing import Protocol
from zlib import crc32

from gateway.broker.storage import checksum, schema
from gateway.broker.storage.batch import SEQUENCE_BITS, LargeItem, StoredItem
from gateway.broker.storage.large.format import IS_LARGE, SEAL, Reference, part_id, unpack

WINDOW_ITEMS = 1024
WINDOW_BYTES = 1 << 20
"""How much of a queue is read ahead at once."""
_PARTS_AT_ONCE = 2
_ROWS = (
    f"SELECT id, added_ms, expires_ms, data, {{}}, {IS_LARGE} AS is_large FROM items "
    "WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"
)
_OUT_OF_ORDER = "the tree is damaged: its rows are out of order"
_NEXT_ID = "SELECT id FROM items WHERE id > ? AND id <= ? ORDER BY id LIMIT 1"


class DatabaseError(Exception):
    """The data directory cannot be used, or a read failed. The message says which file and why."""


class UnusableFileError(DatabaseError):
    """Another start would fail in the same way, until somebody changes the file or its rights."""


@dataclass(frozen=True, slots=True)
class QueueRows:
    """What to read: the rows of the queue with this number and these values from its row in the file."""

    number: int
    seed: int
    unchecked: int


@dataclass(frozen=True, slots=True)
class Damage:
    """Rows that cannot be delivered: the ids from `first` to `last`. `why` says what is wrong with them."""

    first: int
    last: int
    why: str

    def __str__(self) -> str:
        mask = (1 << SEQUENCE_BITS) - 1
        places = str(self.first & mask)
        if self.last != self.first:
            places += f" to {self.last & mask}"
        return f"place {places}: {self.why}"


@dataclass(frozen=True, slots=True)
class Window:
    """The next rows of a queue. `upto`: every row to this id was read, and is in `items` or in `damaged`.

    `unchecked`: the number of items without a checksum.
    """

    items: list[StoredItem]
    damaged: list[Damage]
    upto: int
    unchecked: int = 0


class WindowOwner(Protocol):
    """Has its rows read ahead; the result is given to it."""

    def loaded(self, generation: int, window: Window) -> None: ...
    def not_loaded(self, error: str) -> None: ...


class LargeRead:
    """A large item whose parts are being read."""

    def __init__(self, connection: sqlite3.Connection, path: Path, item: LargeItem) -> None:
        """item: without its bytes. Raises sqlite3.Error."""
        self._connection = connection
        self._path = path
        self._item = item
        self._has_parts = schema.has_parts(connection)
        self._place = 0
        self._sum = 0
        self._data = BytesIO(bytes(item.reference.size))  # zeros, which take no memory before they are overwritten

    def step(self) -> Window | LargeRead:
        """Reads a few parts. Returns itself, or a window: with the item, or with its damage. Raises DatabaseError."""
        reference = self._item.reference
        for _ in range(_PARTS_AT_ONCE):
            try:
                part = self._part(reference)
            except sqlite3.Error as exc:
                if not (schema.is_damage(exc) or isinstance(exc, sqlite3.DataError)):
                    raise DatabaseError(f"{self._path}: {exc}") from exc
                return self._damaged(str(exc))
            if not 0 < len(part) <= reference.size - self._data.tell():
                return self._damaged("a part of it is missing or damaged")
            self._data.write(part)
            self._sum = crc32(part, self._sum)
            self._place += 1
            if self._data.tell() == reference.size:
                return self._complete(reference)
        return self

    def _part(self, reference: Reference) -> bytes:
        """The next part; empty if it is missing or has another type."""
        if not self._has_parts:
            return b""
        key = part_id(reference.number, self._place)
        row = self._connection.execute("SELECT data FROM parts WHERE id = ?", (key,)).fetchone()
        return row[0] if row is not None and type(row[0]) is bytes else b""

    def _complete(self, reference: Reference) -> Window:
        if self._sum != reference.sum:
            return self._damaged("its checksum fails")
        item = self._item
        item.data = self._data.getvalue()  # without a copy: io.BytesIO gives away its buffer
        return Window([item], [], item.id)

    def _damaged(self, why: str) -> Window:
        id_ = self._item.id
        return Window([], [Damage(id_, id_, why)], id_)


class Reader:
    """Reads committed rows while another thread writes."""

    def __init__(self, connection: sqlite3.Connection, path: Path, *, has_checksums: bool = True) -> None:
        """`has_checksums`: False for a file of format 1, in which every row is unchecked."""
        self._connection = connection
        self._path = path
        self._statement = _ROWS.format("checksum" if has_checksums else "NULL")
        connection.execute("PRAGMA query_only=1")
        connection.text_factory = bytes  # a value with a damaged type is compared, not decoded

    def read(self, source: QueueRows, after: int, upto: int, max_items: int, max_bytes: int) -> Window:
        """As `begin`, and reads a large item to its end."""
        found = self.begin(source, after, upto, max_items, max_bytes)
        while isinstance(found, LargeRead):
            found = found.step()
        return found

    def begin(self, source: QueueRows, after: int, upto: int, max_items: int, max_bytes: int) -> Window | LargeRead:
        """The rows above `after` and up to `upto`: at least one if there is one, and as many as the limits allow.

        Their ids increase, and the window's `upto` is above `after`: reading on from there ends, whatever is damaged.
        A large item comes alone; its parts are still to be read. Raises DatabaseError if the disk cannot be read.
        Damage is not an error.
        """
        items: list[StoredItem] = []
        damaged: list[Damage] = []
        last, count, size, unchecked = after, 0, 0, 0
        seed, of_item = source.seed, checksum.of_item
        try:
            rows = self._connection.execute(self._statement, (after, upto, max_items))
            for id_, added_ms, expires_ms, data, stored, is_large in rows:
                if id_ <= last:
                    rows.close()
                    resume = self._next_search(after, last, upto)
                    damaged.append(Damage(last + 1, max(last + 1, resume), _OUT_OF_ORDER))
                    return Window(items, damaged, resume, unchecked)
                try:
                    found = of_item(seed, id_, added_ms, expires_ms, data + SEAL if is_large else data)
                except (TypeError, error):  # a field has another type
                    found = None
                if is_large:
                    reference = unpack(data) if found is not None and found == stored else None
                    if reference is not None:
                        rows.close()
                        if count:
                            return Window(items, damaged, last, unchecked)  # it begins the next one
                        item = LargeItem(id_, added_ms, expires_ms, b"", seed=seed, reference=reference)
                        return LargeRead(self._connection, self._path, item)
                    found = None
                if found is not None and found == stored:
                    items.append(StoredItem(id_, added_ms, expires_ms, data, found))
                    size += len(data)
                elif found is not None and stored is None and id_ <= source.unchecked:
                    items.append(StoredItem(id_, added_ms, expires_ms, data, found))
                    size += len(data)
                    unchecked += 1
                else:
                    damaged.append(
                        Damage(id_, id_, "its checksum fails" if found is not None else "its fields are damaged")
                    )
                last = id_
                count += 1
                if size >= max_bytes or count == max_items:
                    rows.close()
                    return Window(items, damaged, last, unchecked)
        except sqlite3.Error as exc:
            if not (schema.is_damage(exc) or isinstance(exc, sqlite3.DataError)):
                raise DatabaseError(f"{self._path}: {exc}") from exc
            if last == after:  # otherwise the rows so far are returned first, and the next read starts here
                damaged.append(self._unreadable(after, upto, str(exc)))
                last = damaged[-1].last
            return Window(items, damaged, last, unchecked)
        return Window(items, damaged, upto, unchecked)

    def _unreadable(self, after: int, upto: int, why: str) -> Damage:
        """The smallest known range after `after` that cannot be read."""
        try:
            one = self._connection.execute(_NEXT_ID, (after, upto)).fetchone()
        except sqlite3.Error:
            return Damage(after + 1, self._next_readable(after, upto), why)
        if one is None:
            return Damage(after + 1, upto, why)
        if one[0] <= after:
            return Damage(after + 1, self._next_readable(after, upto), _OUT_OF_ORDER)
        return Damage(one[0], one[0], why)

    def _next_search(self, after: int, last: int, upto: int) -> int:
        """From where to read on, if a walk that began above `after` goes back behind `last`. Above `after`."""
        return last if last > after and self._is_readable(last, upto) else self._next_readable(last, upto)

    def _next_readable(self, after: int, upto: int) -> int:
        """An id above `after` from which the tree can be read again, or `upto`.

        Found in steps that double, then halve.
        """
        low, step = after, 1
        while not self._is_readable(low + step, upto):
            low += step
            step *= 2
            if low >= upto:
                return upto
        high = low + step
        while high - low > 1:
            middle = (low + high) // 2
            if self._is_readable(middle, upto):
                high = middle
            else:
                low = middle
        return min(high, upto)

    def _is_readable(self, after: int, upto: int) -> bool:
        """Whether a search for the first id above `after` finds one that is, or that there is none."""
        try:
            one = self._connection.execute(_NEXT_ID, (after, upto)).fetchone()
        except sqlite3.Error:
            return False
        return one is None or one[0] > after

    def close(self) -> None:
        self._connection.close()
