"""The SQLite file: writes a batch, reads a queue's next rows, and says what is there at start. Synchronous; no queues.

Layout: `items` holds every row of every queue under one integer key (queue number above, place below), so that a
queue is one range of one B-tree, an ack is one delete by key, and reading ahead is one range scan. `queues` holds a
summary of each queue, updated by the same transactions, so that a start reads no items. A dropped queue's name is
NULL until its rows are gone.

Durability: WAL; with fsync each commit is synced (`synchronous=FULL`), without it commits survive a killed process but
not a power cut (`NORMAL`: the file stays consistent).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import wal
from .batch import SEQUENCE_BITS, Batch, Item, Purge

log = logging.getLogger(__name__)

FILE = "broker.sqlite"
LOCK = "broker.lock"
RESERVE = "broker.reserve"
RESERVE_BYTES = 8 << 20
"""Twice what the log holds before it is folded into the file, so that a full disk still has room to fold it."""
FORMAT = 1
PURGE_ROWS = 5000
_CHUNKS = (512, 128, 32, 8, 2, 1)
_APPLICATION_ID = 0x4B474231  # "KGB1"

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE queues (
    number INTEGER PRIMARY KEY, name BLOB, items INTEGER NOT NULL, bytes INTEGER NOT NULL, ever INTEGER NOT NULL
);
CREATE TABLE items (
    id INTEGER PRIMARY KEY, added_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL, data BLOB NOT NULL
);
"""


class DatabaseError(Exception):
    """The data directory cannot be used, or a read failed. The message says which file and why."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A queue as the file knows it; `last_id` is its highest row, or one below its range."""

    number: int
    name: bytes
    items: int
    bytes: int
    ever: int
    last_id: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch: why its halves failed (None: committed), and what is left to purge."""

    puts: str | None
    removals: str | None
    unfinished: tuple[Purge, ...] = ()


def lowest_id(number: int) -> int:
    """Every id of the queue is above this, and at most `highest_id`."""
    return number << SEQUENCE_BITS


def highest_id(number: int) -> int:
    return (number << SEQUENCE_BITS) | ((1 << SEQUENCE_BITS) - 1)


class Database:
    """One data directory, locked for this process until `close`. One thread writes; another has its `reader()`."""

    def __init__(self, directory: Path, *, fsync: bool, lock_wait_s: float = 0.0) -> None:
        """Raises DatabaseError where the directory cannot be written, is in use, or holds something else."""
        self.directory = directory
        self.path = directory / FILE
        self.dropped: list[Purge] = []
        self.trouble: str | None = None  # why nothing can be put, as far as the start has shown it
        self._reserved = False
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
        """Opens the file. On a full disk even that needs room, which the reserve of the last run gives."""
        try:
            return self._open(fsync)
        except DatabaseError as exc:
            if not self._is_disk_full():
                raise
            try:
                (self.directory / RESERVE).unlink()
                return self._open(fsync)
            except FileNotFoundError:
                raise DatabaseError(f"{exc} (the disk is full)") from exc

    def _is_disk_full(self) -> bool:
        room = os.statvfs(self.directory)
        return room.f_bavail * room.f_frsize < RESERVE_BYTES

    def _open(self, fsync: bool) -> sqlite3.Connection:
        committed = self._committed_frames()
        try:
            connection = self._connect()
            try:
                is_new = self._is_new(connection)
                connection.execute("PRAGMA journal_mode=WAL").fetchone()
                self._tell_lost_commits(connection, committed)
                connection.execute(f"PRAGMA synchronous={'FULL' if fsync else 'NORMAL'}")
                if is_new:
                    self._make(connection)
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as exc:
            raise DatabaseError(f"{self.path}: {exc}") from exc
        return connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, cached_statements=256)
        connection.execute("PRAGMA busy_timeout=5000")
        connection.execute("PRAGMA cache_size=-8000")
        return connection

    def _committed_frames(self) -> int:
        """How far the log reaches that a killed broker left. Raises DatabaseError where it has lost its database:
        SQLite would throw it away and begin anew."""
        path = self.path.with_name(f"{FILE}-wal")
        try:
            frames = wal.last_commit(path)
            if frames and (not self.path.exists() or not self.path.stat().st_size):
                raise DatabaseError(f"{self.path}: is empty or missing, but the log beside it ({path.name}) holds jobs")
        except OSError as exc:
            raise DatabaseError(f"{path}: {exc.strerror or exc}") from exc
        return frames

    def _tell_lost_commits(self, connection: sqlite3.Connection, committed: int) -> None:
        if not committed:
            return
        _, taken, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if taken < committed:
            log.error(
                "%s-wal is damaged: %d of its %d frames could be read; what was committed behind them is lost",
                self.path,
                taken,
                committed,
            )

    def _is_new(self, connection: sqlite3.Connection) -> bool:
        """Whether the file is empty; nothing is written. Raises DatabaseError where it is somebody else's."""
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if tables and application != _APPLICATION_ID:
            raise DatabaseError(f"{self.path}: is not a broker's file")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if tables and version != FORMAT:
            raise DatabaseError(f"{self.path}: has format {version}, this broker knows {FORMAT}")
        return not tables

    def _make(self, connection: sqlite3.Connection) -> None:
        self.path.chmod(0o600)
        connection.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={FORMAT}")
        connection.execute("COMMIT")

    def queues(self) -> list[Stored]:
        """Every queue, without reading its items; what was being dropped goes to `dropped`. Raises DatabaseError."""
        found: dict[bytes, Stored] = {}
        try:
            rows = self._connection.execute("SELECT number, name, items, bytes, ever FROM queues ORDER BY number")
            for number, name, items, size, ever in rows.fetchall():
                low, high = lowest_id(number), highest_id(number)
                last = self._connection.execute("SELECT max(id) FROM items WHERE id BETWEEN ? AND ?", (low, high))
                last_id = last.fetchone()[0] or low
                older = name if name is None else found.pop(name, None)
                if name is None:
                    self.dropped.append(Purge(number, [(low, high)], drop=True))
                else:
                    if older is not None:  # its drop had failed when the younger one was made
                        span = lowest_id(older.number), highest_id(older.number)
                        self.dropped.append(Purge(older.number, [span], drop=True))
                    found[name] = Stored(number, name, items, size, ever, last_id)
        except sqlite3.Error as exc:
            raise DatabaseError(f"{self.path}: {exc}") from exc
        return list(found.values())

    def meta(self, key: str) -> str | None:
        """A stored setting. Raises DatabaseError."""
        try:
            row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as exc:
            raise DatabaseError(f"{self.path}: {exc}") from exc
        return None if row is None else str(row[0])

    def write(self, batch: Batch) -> Outcome:
        """The whole batch in one transaction; where that fails, its removals by themselves. Raises no sqlite3.Error."""
        puts = self._take_reserve() if batch.has_puts else None
        if puts is None:
            try:
                return Outcome(None, None, self._transaction(batch, puts=True))
            except (sqlite3.Error, OverflowError, MemoryError) as exc:
                puts = f"cannot write: {exc}"
                self._give_reserve()
        if not batch.has_removals:
            return Outcome(puts, None)
        try:
            return Outcome(puts, None, self._transaction(batch, puts=False))
        except sqlite3.Error as exc:
            return Outcome(puts, f"cannot write: {exc}")

    def _take_reserve(self) -> str | None:
        """Room is kept for the removals of a full disk; without it nothing is put. None, or why there is none.

        Room inside the file, left by what was removed, does as well.
        """
        if self._reserved:
            return None
        why = self._allocate(RESERVE_BYTES)
        if why is None:
            self._reserved = True
        elif self._free_bytes() >= 2 * RESERVE_BYTES:
            return None
        return why

    def _allocate(self, size: int) -> str | None:
        path = self.directory / RESERVE
        try:
            with path.open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as exc:
            if exc.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                path.unlink(missing_ok=True)
                return f"cannot write: {exc.strerror or exc}"
        return None

    def _free_bytes(self) -> int:
        try:
            pages = self._connection.execute("PRAGMA freelist_count").fetchone()[0]
            return int(pages) * int(self._connection.execute("PRAGMA page_size").fetchone()[0])
        except sqlite3.Error:
            return 0

    def _give_reserve(self) -> None:
        """The room goes to the removals; folding the log into the file lets the log start again at its beginning."""
        self._reserved = False
        with contextlib.suppress(OSError):
            (self.directory / RESERVE).unlink(missing_ok=True)
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _transaction(self, batch: Batch, *, puts: bool) -> tuple[Purge, ...]:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            if puts:
                self._write_puts(batch)
            complete = self._delete(batch.removed_ids)
            self._count(batch.removal_counts)
            if not complete:
                self._recount(batch.removal_counts)
            unfinished = tuple(purge for purge in map(self._purge, batch.purges) if purge is not None)
            connection.execute("COMMIT")
        except BaseException:
            self._rollback()
            raise
        return unfinished

    def _rollback(self) -> None:
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                self._connection.execute("ROLLBACK")

    def _write_puts(self, batch: Batch) -> None:
        connection = self._connection
        for number, (name, _) in batch.created.items():
            connection.execute("INSERT OR IGNORE INTO queues VALUES (?, ?, 0, 0, 0)", (number, name))
        for chunk, params in _chunks(batch.rows, 4):
            connection.execute("INSERT INTO items VALUES " + ",".join(["(?,?,?,?)"] * chunk), params)
        for move in batch.moves:
            connection.execute("UPDATE items SET id = ?, added_ms = ?, expires_ms = ? WHERE id = ?", move)
        for pair in batch.meta.items():
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", pair)
        self._count(batch.put_counts)

    def _delete(self, ids: Sequence[int]) -> bool:
        """Whether all of them were there."""
        deleted = 0
        for chunk, params in _chunks(ids, 1):
            statement = f"DELETE FROM items WHERE id IN ({','.join('?' * chunk)})"
            deleted += self._connection.execute(statement, params).rowcount
        return deleted == len(ids)

    def _recount(self, numbers: Iterable[int]) -> None:
        """Counts these queues anew: rows were gone already, after an earlier failure. Rare, so it may take its time."""
        for number in numbers:
            span = lowest_id(number), highest_id(number)
            count = "SELECT count(*), coalesce(sum(length(data)), 0) FROM items WHERE id BETWEEN ? AND ?"
            items, size = self._connection.execute(count, span).fetchone()
            self._connection.execute("UPDATE queues SET items = ?, bytes = ? WHERE number = ?", (items, size, number))

    def _count(self, counts: dict[int, list[int]]) -> None:
        statement = "UPDATE queues SET items = items + ?, bytes = bytes + ?, ever = ever + ? WHERE number = ?"
        for number, (items, size, ever) in counts.items():
            self._connection.execute(statement, (items, size, ever, number))

    def _purge(self, purge: Purge) -> Purge | None:
        """One slice of it; what is left, or None."""
        connection, number = self._connection, purge.number
        if purge.drop:
            connection.execute("UPDATE queues SET name = NULL WHERE number = ?", (number,))
        room = PURGE_ROWS
        slice_ = "SELECT id, data FROM items WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"
        for index, (low, high) in enumerate(purge.spans):
            count, size, last = connection.execute(
                f"SELECT count(*), sum(length(data)), max(id) FROM ({slice_})", (low, high, room)
            ).fetchone()
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

    def reader(self) -> Reader:
        """A second connection, for another thread. Raises DatabaseError."""
        try:
            return Reader(self._connect(), self.path)
        except sqlite3.Error as exc:
            raise DatabaseError(f"{self.path}: {exc}") from exc

    def close(self) -> None:
        """Folds the log into the file as far as that works, and unlocks the directory. The reserve stays for the next
        start: the disk may be full then."""
        try:
            self._connection.close()
            if not self._reserved:
                for size in (RESERVE_BYTES, RESERVE_BYTES // 8):
                    if self._allocate(size) is None:
                        break
        finally:
            os.close(self._lock)


class Reader:
    """Reads committed rows while another thread writes."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        connection.execute("PRAGMA query_only=1")

    def read(self, after: int, upto: int, max_items: int, max_bytes: int) -> tuple[list[Item], bool]:
        """The next rows above `after`, one at least; and whether that were all up to `upto`. Raises DatabaseError."""
        items: list[Item] = []
        size = 0
        try:
            rows = self._connection.execute(
                "SELECT id, added_ms, expires_ms, data FROM items WHERE id > ? AND id <= ? ORDER BY id LIMIT ?",
                (after, upto, max_items),
            )
            try:
                for row in rows:
                    items.append(Item(*row))
                    size += len(row[3])
                    if size >= max_bytes:
                        return items, False
            finally:
                rows.close()
        except sqlite3.Error as exc:
            raise DatabaseError(f"{self._path}: {exc}") from exc
        return items, len(items) < max_items

    def close(self) -> None:
        self._connection.close()


def _chunks(values: Sequence[int | bytes] | Sequence[int], width: int) -> Iterator[tuple[int, Sequence[int | bytes]]]:
    """Slices of few fixed sizes, so that few statements serve every size: each one is one step without the GIL."""
    start, left = 0, len(values) // width
    for chunk in _CHUNKS:
        while left >= chunk:
            yield chunk, values[start : start + chunk * width]
            start += chunk * width
            left -= chunk
