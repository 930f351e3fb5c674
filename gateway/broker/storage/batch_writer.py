"""Writes one batch in one transaction of the SQLite file. What it cannot write at once it leaves for the next batch."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway.broker.storage import checksum, schema
from gateway.broker.storage.batch import Batch, Purge, Row, Unchecked
from gateway.broker.storage.inventory import highest_id, lowest_id
from gateway.broker.storage.large.format import IS_LARGE, SIZE, unpack
from gateway.broker.storage.large.parts import Parts
from gateway.broker.storage.transaction import transaction
from gateway.common import wal

log = logging.getLogger(__name__)

PURGE_ROWS = 5000
_CHECKSUM_ROWS = 2000
_CHECKSUM_BYTES = 4 << 20
_CHUNKS = (512, 128, 64, 32, 16, 8, 4, 2, 1)
_ITEM_FIELDS = 5
_UNBOUND_BYTES = 1 << 20
_MOVE = "UPDATE items SET id = ?, added_ms = ?, expires_ms = ?, checksum = ? WHERE id = ?"
_COUNT = f"SELECT count(*), coalesce(sum({SIZE}), 0) FROM items WHERE id BETWEEN ? AND ?"
_SLICE = (
    "SELECT count(*), coalesce(sum(size), 0), max(id) "
    f"FROM (SELECT id, {SIZE} AS size FROM items WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?)"
)
_REFERENCES = f"SELECT CAST(data AS BLOB) FROM items WHERE id BETWEEN ? AND ? AND {IS_LARGE}"
_WITHOUT_CHECKSUM = (
    "SELECT id, added_ms, expires_ms, data FROM items WHERE id > ? AND id <= ? AND checksum ISNULL ORDER BY id LIMIT ?"
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a batch: why its halves failed (None: committed), and what is left to purge or without checksums.

    `refused`: the items, by id, that alone were not written or moved, and why. `freed`: the numbers of large items that
    were removed: their parts are to be deleted.
    """

    puts: str | None
    removals: str | None
    unfinished: tuple[Purge, ...] = ()
    unchecked: tuple[Unchecked, ...] = ()
    refused: Mapping[int, str] = field(default_factory=dict)
    freed: tuple[int, ...] = ()


class BatchWriter:
    """Uses the connection from one thread. `mark` remembers the length of the log after each commit."""

    def __init__(self, connection: sqlite3.Connection, path: Path, mark: wal.Mark, parts: Parts) -> None:
        self._connection = connection
        self._path = path
        self._mark = mark
        self._parts = parts

    def write(self, batch: Batch, *, puts: bool) -> Outcome:
        """Writes the batch in one transaction; without `puts` only its removals.

        Raises what SQLite raises, OverflowError or MemoryError; nothing is written then.
        """
        unchecked: tuple[Unchecked, ...] = ()
        freed = list(batch.freed)
        with transaction(self._connection):
            if puts:
                self._write_puts(batch)
                rests = map(self._add_checksums, batch.unchecked)
                unchecked = tuple(rest for rest in rests if rest is not None)
            complete = self._delete(batch.removed_ids)
            self._count(batch.removal_counts)
            if not complete:
                self._recount(batch.removal_counts)
            unfinished = tuple(rest for purge in batch.purges if (rest := self._purge(purge, freed)) is not None)
            if freed:
                self._parts.release(freed)
        self._mark.write()
        if batch.put_bytes > _UNBOUND_BYTES:
            self._unbind(len(batch.rows) // _ITEM_FIELDS)
        return Outcome(None, None, unfinished, unchecked, freed=tuple(freed))

    def _write_puts(self, batch: Batch) -> None:
        connection = self._connection
        for number, (name, _) in batch.created.items():
            row = (number, name, checksum.of_queue(number, name, 0))
            connection.execute("INSERT OR IGNORE INTO queues VALUES (?, ?, 0, 0, 0, 0, ?)", row)
        for chunk, params in _chunks(batch.rows, _ITEM_FIELDS):
            connection.execute(_insert(chunk), params)
        if batch.used:
            self._parts.keep(batch.used)
        for move in batch.moves:
            connection.execute(_MOVE, move)
        for pair in batch.meta.items():
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", pair)
        self._count(batch.put_counts)
        self._recount(batch.recounts)

    def _unbind(self, items: int) -> None:
        """SQLite keeps the values bound to a cached statement: large items would stay in memory until the next ones.

        Rows that are refused (`added_ms` is NULL) replace them.
        """
        for chunk in {chunk for chunk, _ in _chunks(range(items), 1)}:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute(_insert(chunk), (None,) * (chunk * _ITEM_FIELDS))

    def _delete(self, ids: Sequence[int]) -> bool:
        """Deletes the rows. Returns whether all of them existed."""
        deleted = 0
        for chunk, params in _chunks(ids, 1):
            statement = f"DELETE FROM items WHERE id IN ({','.join('?' * chunk)})"
            deleted += self._connection.execute(statement, params).rowcount
        return deleted == len(ids)

    def _recount(self, numbers: Iterable[int]) -> None:
        """Counts the rows of these queues, as far as they can be read. Rare, so it may be slow."""
        for number in numbers:
            span = lowest_id(number), highest_id(number)
            try:
                items, size = self._connection.execute(_COUNT, span).fetchone()
            except sqlite3.Error as exc:
                if not schema.is_damage(exc):
                    raise
                continue
            self._connection.execute("UPDATE queues SET items = ?, bytes = ? WHERE number = ?", (items, size, number))

    def _count(self, counts: dict[int, list[int]]) -> None:
        statement = "UPDATE queues SET items = items + ?, bytes = bytes + ?, ever = ever + ? WHERE number = ?"
        for number, (items, size, ever) in counts.items():
            self._connection.execute(statement, (items, size, ever, number))

    def _purge(self, purge: Purge, freed: list[int]) -> Purge | None:
        """Does one slice of it; returns the rest, or None. Adds the numbers of its large items to `freed`."""
        connection, number = self._connection, purge.number
        if purge.drop:
            row = (checksum.of_queue(number, None, 0), number)
            connection.execute("UPDATE queues SET name = NULL, unchecked = 0, checksum = ? WHERE number = ?", row)
        room = PURGE_ROWS
        for index, (low, high) in enumerate(purge.spans):
            count, size, last = connection.execute(_SLICE, (low, high, room)).fetchone()
            if count and last < low:  # a damaged tree: the search went back, and would again
                log.error("%s: jobs of queue number %d cannot be removed; %s", self._path, number, schema.CHECK)
                continue
            if count:
                if self._parts.exist:
                    references = connection.execute(_REFERENCES, (low, last))
                    freed += [found.number for row in references if (found := unpack(row[0])) is not None]
                connection.execute("DELETE FROM items WHERE id BETWEEN ? AND ?", (low, last))
                self._count({number: [-count, -size, 0]})
            if count == room:
                left = [(last + 1, high), *purge.spans[index + 1 :]]
                return Purge(number, left, drop=purge.drop, ticket=purge.ticket)
            room -= count
        if purge.drop:
            connection.execute("DELETE FROM queues WHERE number = ?", (number,))
        return None

    def _add_checksums(self, rest: Unchecked) -> Unchecked | None:
        """Does one slice of it; returns the rest, or None."""
        connection, number, seed = self._connection, rest.number, checksum.seed(rest.name)
        row = connection.execute("SELECT unchecked FROM queues WHERE number = ?", (number,)).fetchone()
        upto = row[0] if row is not None else 0
        rows = connection.execute(_WITHOUT_CHECKSUM, (rest.after, upto, _CHECKSUM_ROWS))
        found, last, size = [], rest.after, 0
        for last, added_ms, expires_ms, data in rows:
            if (type(added_ms), type(expires_ms), type(data)) == (int, int, bytes):  # otherwise it stays damaged
                found.append((checksum.of_item(seed, last, added_ms, expires_ms, data), last))
                size += len(data)
            if size > _CHECKSUM_BYTES:
                break
        rows.close()
        connection.executemany("UPDATE items SET checksum = ? WHERE id = ?", found)
        if last > rest.after:
            return Unchecked(rest.owner, number, rest.name, last)
        values = (checksum.of_queue(number, rest.name, 0), number)
        connection.execute("UPDATE queues SET unchecked = 0, checksum = ? WHERE number = ? AND name NOTNULL", values)
        return None


def _insert(items: int) -> str:
    return "INSERT INTO items (id, added_ms, expires_ms, data, checksum) VALUES " + ",".join(["(?,?,?,?,?)"] * items)


def _chunks(values: Row | Sequence[int], width: int) -> Iterator[tuple[int, Row | Sequence[int]]]:
    """Slices of a few fixed sizes, so that a few statements serve every size. SQLite runs each one without the GIL."""
    start, left = 0, len(values) // width
    for chunk in _CHUNKS:
        while left >= chunk:
            yield chunk, values[start : start + chunk * width]
            start += chunk * width
            left -= chunk
