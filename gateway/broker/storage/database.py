"""The SQLite file: writes batches, and reads the inventory at the start. Synchronous; knows no queues.

Layout: `items` holds every row of every queue under one integer key (queue number in the upper bits, position in the
lower). So a queue is one range of one B-tree, an ack is one delete by key, and reading ahead is one range scan.
`queues` holds a summary of each queue, which the same transactions update, so that a start reads no items. The name of
a deleted queue is NULL until its rows are gone. schema.py defines the tables.

Durability: WAL. With fsync each commit is synced (`synchronous=FULL`). Without it commits survive a killed process, but
not a power cut (`NORMAL`: the file stays consistent).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway.broker.storage import checksum, inventory, schema
from gateway.broker.storage.batch import Batch, Purge, Unchecked
from gateway.broker.storage.inventory import Inventory, highest_id, lowest_id
from gateway.broker.storage.reader import DatabaseError, Reader
from gateway.broker.storage.reserve import BYTES as RESERVE_BYTES
from gateway.broker.storage.reserve import Reserve
from gateway.common import wal

log = logging.getLogger(__name__)

FILE = "broker.sqlite"
LOCK = "broker.lock"
PURGE_ROWS = 5000
_CHECKSUM_ROWS = 2000
_CHECKSUM_BYTES = 4 << 20
_CHUNKS = (512, 128, 32, 8, 2, 1)
_ITEM_FIELDS = 5
_LARGE_BYTES = 1 << 20
_ITEM_ERRORS = (
    OverflowError,
    MemoryError,
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)
"""Errors that a single row can cause, whatever the state of the disk; so can damage at one place of the file."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a batch: why its halves failed (None: committed), and what is left to purge or without checksums.

    `refused`: the items, by id, that alone were not written or moved, and why.
    """

    puts: str | None
    removals: str | None
    unfinished: tuple[Purge, ...] = ()
    unchecked: tuple[Unchecked, ...] = ()
    refused: Mapping[int, str] = field(default_factory=dict)


class Database:
    """One data directory, locked for this process until `close`. One thread writes; another has its `reader()`."""

    def __init__(self, directory: Path, *, fsync: bool, lock_wait_s: float = 0.0) -> None:
        """Raises DatabaseError if the directory cannot be written, is in use, or holds another kind of file."""
        self.directory = directory
        self.path = directory / FILE
        self.trouble: str | None = None  # why nothing can be put, as far as is known at the start
        self._reserve = Reserve(directory)
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise DatabaseError(f"data directory {directory}: {exc.strerror or exc}") from exc
        try:
            self._take_lock(lock_wait_s)
            self._connection = self._open_with_room(fsync)
            self.trouble = self._take_reserve()
        except BaseException:
            os.close(self._lock)
            raise

    def _take_lock(self, wait_s: float) -> None:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as exc:
                if time.monotonic() >= deadline:
                    raise DatabaseError(f"data directory {self.directory}: in use by another broker") from exc
                time.sleep(0.02)

    def _open_with_room(self, fsync: bool) -> sqlite3.Connection:
        """Opens the file. On a full disk even that needs space, which the reserve of the last run provides."""
        try:
            return self._open(fsync)
        except DatabaseError as exc:
            if not self._is_disk_full():
                raise
            if not self._reserve.use():
                raise DatabaseError(f"{exc} (the disk is full)") from exc
            return self._open(fsync)

    def _is_disk_full(self) -> bool:
        room = os.statvfs(self.directory)
        return room.f_bavail * room.f_frsize < RESERVE_BYTES

    def _open(self, fsync: bool) -> sqlite3.Connection:
        frames = self._expected_frames()
        try:
            connection = self._connect()
            try:
                schema.inspect(connection)
                connection.execute("PRAGMA journal_mode=WAL").fetchone()
                self._tell_lost_commits(connection, frames)
                connection.execute(f"PRAGMA synchronous={'FULL' if fsync else 'NORMAL'}")
                schema.prepare(connection, self.path)
                self._mark = wal.Mark(self.path)
                self._mark.clear()
            except BaseException:
                connection.close()
                raise
        except (sqlite3.Error, schema.SchemaError, OSError, ValueError) as exc:
            raise DatabaseError(f"{self.path}: {_with_advice(exc)}") from exc
        return connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, cached_statements=256)
        connection.execute("PRAGMA busy_timeout=5000")
        connection.execute("PRAGMA cache_size=-8000")
        connection.execute("PRAGMA cell_size_check=1")
        return connection

    def _expected_frames(self) -> int:
        """The length of the log that a killed broker left. Raises DatabaseError if the log's database is lost: SQLite
        would discard the log and begin a new one."""
        path = self.path.with_name(f"{FILE}-wal")
        try:
            if wal.last_commit(path) and (not self.path.exists() or not self.path.stat().st_size):
                raise DatabaseError(f"{self.path}: is empty or missing, but its log ({path.name}) contains jobs")
            return wal.expected(self.path)
        except OSError as exc:
            raise DatabaseError(f"{path}: {exc.strerror or exc}") from exc

    def _tell_lost_commits(self, connection: sqlite3.Connection, frames: int) -> None:
        if not frames:
            return
        _, taken, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if taken < frames:
            log.error(
                "%s-wal is damaged: %d of its %d frames could be read; what was committed after them is lost: "
                "jobs may be missing, and jobs that were removed may be back",
                self.path,
                max(taken, 0),
                frames,
            )

    def inventory(self) -> Inventory:
        """Every queue, without reading its items. Raises DatabaseError."""
        try:
            return inventory.take(self._connection, self.path)
        except sqlite3.Error as exc:
            raise DatabaseError(f"{self.path}: {_with_advice(exc)}") from exc

    def meta(self, key: str) -> str | None:
        """A stored setting. Raises DatabaseError."""
        try:
            row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as exc:
            raise DatabaseError(f"{self.path}: {exc}") from exc
        return None if row is None else str(row[0])

    def write(self, batch: Batch) -> Outcome:
        """Writes the whole batch in one transaction; if that fails, the part that can be written. No sqlite3.Error.

        If one row can be the cause, each change gets its own transaction, so that only the faulty ones fail. If the
        disk is the cause, the removals are tried alone.
        """
        puts = self._take_reserve() if batch.has_puts else None
        if puts is None:
            try:
                return self._transaction(batch, puts=True)
            except (sqlite3.Error, OverflowError, MemoryError) as exc:
                if _is_of_one_row(exc):
                    return self._write_singly(batch)
                puts = f"cannot write: {exc}"
                self._give_reserve()
        if not batch.has_removals:
            return Outcome(puts, None)
        try:
            return dataclasses.replace(self._transaction(batch, puts=False), puts=puts)
        except sqlite3.Error as exc:
            return Outcome(puts, f"cannot write: {exc}")

    def _write_singly(self, batch: Batch) -> Outcome:
        """Each change by itself. A removal that fails is logged and given up: its job may return."""
        refused: dict[int, str] = {}
        unfinished: list[Purge] = []
        unchecked: list[Unchecked] = []
        for id_, piece in batch.pieces():
            try:
                found = self._transaction(piece, puts=True)
            except (sqlite3.Error, OverflowError, MemoryError) as exc:
                if piece.created or piece.meta:
                    why = f"cannot write: {exc}"
                    return Outcome(why, why if batch.has_removals else None)
                if piece.rows or piece.moves:
                    refused[id_] = str(exc)
                else:
                    log.error("%s: %s: %s; %s", self.path, _what(id_, piece), exc, schema.CHECK)  # noqa: TRY400
            else:
                unfinished += found.unfinished
                unchecked += found.unchecked
        return Outcome(None, None, tuple(unfinished), tuple(unchecked), refused)

    def _take_reserve(self) -> str | None:
        """Reserves space for the removals of a full disk; without it nothing is put. Returns None, or why it failed.

        Free space inside the file, left by removals, is sufficient, too.
        """
        if self._reserve.taken:
            return None
        why = self._reserve.take()
        return None if why is not None and self._free_bytes() >= 2 * RESERVE_BYTES else why

    def _free_bytes(self) -> int:
        try:
            pages = self._connection.execute("PRAGMA freelist_count").fetchone()[0]
            return int(pages) * int(self._connection.execute("PRAGMA page_size").fetchone()[0])
        except sqlite3.Error:
            return 0

    def _give_reserve(self) -> None:
        """Gives the space to the removals. A checkpoint lets the log start again at its beginning."""
        self._reserve.give()
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _transaction(self, batch: Batch, *, puts: bool) -> Outcome:
        connection = self._connection
        unchecked: tuple[Unchecked, ...] = ()
        try:
            connection.execute("BEGIN IMMEDIATE")
            if puts:
                self._write_puts(batch)
                rests = map(self._add_checksums, batch.unchecked)
                unchecked = tuple(rest for rest in rests if rest is not None)
            complete = self._delete(batch.removed_ids)
            self._count(batch.removal_counts)
            if not complete:
                self._recount(batch.removal_counts)
            unfinished = tuple(purge for purge in map(self._purge, batch.purges) if purge is not None)
            connection.execute("COMMIT")
        except BaseException:
            self._rollback()
            raise
        self._mark.write()
        if batch.put_bytes > _LARGE_BYTES:
            self._unbind(len(batch.rows) // _ITEM_FIELDS)
        return Outcome(None, None, unfinished, unchecked)

    def _rollback(self) -> None:
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):  # SQLite may already have rolled back
                self._connection.execute("ROLLBACK")

    def _write_puts(self, batch: Batch) -> None:
        connection = self._connection
        for number, (name, _) in batch.created.items():
            row = (number, name, checksum.of_queue(number, name, 0))
            connection.execute("INSERT OR IGNORE INTO queues VALUES (?, ?, 0, 0, 0, 0, ?)", row)
        for chunk, params in _chunks(batch.rows, _ITEM_FIELDS):
            connection.execute(_insert(chunk), params)
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
            count = "SELECT count(*), coalesce(sum(length(data)), 0) FROM items WHERE id BETWEEN ? AND ?"
            try:
                items, size = self._connection.execute(count, span).fetchone()
            except sqlite3.Error as exc:
                if not schema.is_damage(exc):
                    raise
                continue
            self._connection.execute("UPDATE queues SET items = ?, bytes = ? WHERE number = ?", (items, size, number))

    def _count(self, counts: dict[int, list[int]]) -> None:
        statement = "UPDATE queues SET items = items + ?, bytes = bytes + ?, ever = ever + ? WHERE number = ?"
        for number, (items, size, ever) in counts.items():
            self._connection.execute(statement, (items, size, ever, number))

    def _purge(self, purge: Purge) -> Purge | None:
        """Does one slice of it; returns the rest, or None."""
        connection, number = self._connection, purge.number
        if purge.drop:
            row = (checksum.of_queue(number, None, 0), number)
            connection.execute("UPDATE queues SET name = NULL, unchecked = 0, checksum = ? WHERE number = ?", row)
        room = PURGE_ROWS
        slice_ = "SELECT id, data FROM items WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"
        for index, (low, high) in enumerate(purge.spans):
            count, size, last = connection.execute(
                f"SELECT count(*), coalesce(sum(length(data)), 0), max(id) FROM ({slice_})", (low, high, room)
            ).fetchone()
            if count and last < low:  # a damaged tree: the search went back, and would again
                log.error("%s: jobs of queue number %d cannot be removed; %s", self.path, number, schema.CHECK)
                continue
            if count:
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

    def reader(self) -> Reader:
        """A second connection, for another thread. Raises DatabaseError."""
        try:
            return Reader(self._connect(), self.path)
        except sqlite3.Error as exc:
            raise DatabaseError(f"{self.path}: {exc}") from exc

    def close(self) -> None:
        """Checkpoints the log into the file as far as possible, and unlocks the directory. The reserve stays for the
        next start, because the disk may be full then."""
        try:
            self._mark.clear()
            self._connection.close()
            self._mark.close()
            self._reserve.leave()
        finally:
            os.close(self._lock)


_MOVE = "UPDATE items SET id = ?, added_ms = ?, expires_ms = ?, checksum = ? WHERE id = ?"
_WITHOUT_CHECKSUM = (
    "SELECT id, added_ms, expires_ms, data FROM items WHERE id > ? AND id <= ? AND checksum ISNULL ORDER BY id LIMIT ?"
)


def _insert(items: int) -> str:
    return "INSERT INTO items (id, added_ms, expires_ms, data, checksum) VALUES " + ",".join(["(?,?,?,?,?)"] * items)


def _with_advice(error: BaseException) -> str:
    return f"{error}; {schema.CHECK}" if schema.is_damage(error) else str(error)


def _is_of_one_row(error: BaseException) -> bool:
    """Whether one row can be the cause, and not the disk."""
    return isinstance(error, _ITEM_ERRORS) or schema.is_damage(error)


def _what(id_: int, piece: Batch) -> str:
    """What a failed part of a batch was to do."""
    if piece.removed_ids:
        return f"job {id_} is settled but cannot be removed, and may be delivered again"
    for purge in piece.purges:
        return f"jobs of queue number {purge.number} cannot be removed"
    for rest in piece.unchecked:
        return f"jobs of queue {rest.name!r} stay without checksums"
    return "the counters of queues cannot be corrected"


def _chunks(values: Sequence[int | bytes] | Sequence[int], width: int) -> Iterator[tuple[int, Sequence[int | bytes]]]:
    """Slices of a few fixed sizes, so that a few statements serve every size. SQLite runs each one without the GIL."""
    start, left = 0, len(values) // width
    for chunk in _CHUNKS:
        while left >= chunk:
            yield chunk, values[start : start + chunk * width]
            start += chunk * width
            left -= chunk
