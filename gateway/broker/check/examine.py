"""Examines a data directory that no broker uses: every row, the counters, the tree and the log. Changes no job.

It finds everything that a start of the broker would find, and more: a start reads no items.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gateway.broker.storage import schema
from gateway.broker.storage.batch import SEQUENCE_BITS
from gateway.broker.storage.checksum import seed
from gateway.broker.storage.inventory import highest_id, is_sound, lowest_id, unfinished_rows
from gateway.broker.storage.large.format import IS_LARGE, PLACE_BITS, last_part_id, unpack
from gateway.broker.storage.opening import FILE, LOCK
from gateway.broker.storage.reader import Damage, DatabaseError, QueueRows, Reader
from gateway.common import wal
from gateway.common.counted import counted
from gateway.common.locks import KILLED_WAIT_S, locked_within
from gateway.common.net import reason

WINDOW_ROWS = 2000
WINDOW_BYTES = 8 << 20
_KEPT_DAMAGES = 1000
_TREE_ERRORS = 100

Progress = Callable[[int, int], None]
"""Called with the number of rows that were read, and their total according to the counters, which can be wrong."""


@dataclass(slots=True)
class QueueReport:
    """One queue. jobs, bytes: of its sound rows. counted, counted_bytes: according to its counters.

    damages: at most 1,000; damaged: the number of damaged rows or places. unchecked: rows without a checksum.
    """

    number: int
    name: bytes
    jobs: int = 0
    bytes: int = 0
    counted: int = 0
    counted_bytes: int = 0
    damaged: int = 0
    unchecked: int = 0
    damages: list[Damage] = field(default_factory=list)

    @property
    def missing(self) -> int:
        """Jobs that are counted, but are neither sound nor damaged."""
        return max(self.counted - self.jobs - self.damaged, 0)

    @property
    def is_sound(self) -> bool:
        return not self.damaged and (self.counted, self.counted_bytes) == (self.jobs, self.bytes)


@dataclass(slots=True)
class Report:
    """The result. frames, frames_lost: of the log. errors: of the tree and of the queues' rows."""

    path: Path
    format: int
    size: int
    frames: int = 0
    frames_lost: int = 0
    queues: list[QueueReport] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        return not self.errors and not self.frames_lost and all(queue.is_sound for queue in self.queues)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[Path]:
    """The broker's file in `directory`, locked so that no broker can use it. Raises DatabaseError.

    It waits for a broker that was killed just now.
    """
    path = directory / FILE
    try:
        if not path.is_file():
            raise DatabaseError(f"{path}: no such file; give the directory of --data")
        lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise DatabaseError(f"{exc.filename or directory}: {exc.strerror or exc}") from exc
    try:
        try:
            is_free = locked_within(KILLED_WAIT_S, lock)
        except OSError as exc:
            raise DatabaseError(f"{directory / LOCK}: cannot be locked: {exc.strerror or exc}") from exc
        if not is_free:
            raise DatabaseError(f"{directory}: in use by a broker; stop it first")
        yield path
    finally:
        os.close(lock)


def examine(path: Path, progress: Progress) -> Report:
    """Examines the file at `path`, which is locked. Raises DatabaseError if it cannot be examined at all."""
    try:
        expected = wal.expected(path)
        header = schema.read_header(path)
        has_log = path.with_name(f"{path.name}-wal").exists()
        report = Report(path, 0, path.stat().st_size)
        with opened(path) as connection:
            report.format = schema.inspect(connection)
            taken = wal.committed(path) if has_log else 0
            report.frames = expected if taken is None else taken
            report.frames_lost = max(expected - report.frames, 0)
            if report.format == 0:  # nothing was ever stored, or all of it was in the log
                return report
            _check_header(report, header)
            _check_queues(report, connection, progress)
            _check_parts(report, connection)
            _check_settings(report, connection)
            _check_tree(report, connection)
    except (OSError, schema.SchemaError, sqlite3.Error) as exc:
        raise DatabaseError(f"{path}: {reason(exc)}") from exc
    return report


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that changes nothing, and leaves no new file behind."""
    beside = [path.with_name(f"{path.name}{end}") for end in ("-shm", "-wal")]
    before = {file for file in beside if file.exists()}
    beside[0].unlink(missing_ok=True)  # the index of the log, which SQLite makes again from the log
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    try:
        connection.execute("PRAGMA cell_size_check=1")
        yield connection
    finally:
        connection.close()
        for file in beside:
            if file not in before:
                file.unlink(missing_ok=True)


def queue_rows(connection: sqlite3.Connection, format_: int) -> Iterator[tuple[QueueReport, int, int, bool]]:
    """Every row of `queues`: number and name, the mark of unchecked rows, `ever`, and whether the row is sound."""
    columns = "unchecked, checksum" if format_ > 1 else "0, NULL"
    for number, name, items, size, ever, unchecked, stored in connection.execute(
        f"SELECT number, name, items, bytes, ever, {columns} FROM queues ORDER BY number"
    ).fetchall():
        sound = format_ == 1 or is_sound(number, name, unchecked, stored)
        counted, counted_bytes = (count if type(count) is int else -1 for count in (items, size))
        mark = unchecked if format_ > 1 else highest_id(number)
        yield QueueReport(number, name or b"", counted=counted, counted_bytes=counted_bytes), mark, ever, sound


def _check_header(report: Report, header: bytes) -> None:
    try:
        schema.check_header(header)
    except schema.SchemaError as exc:
        report.errors.append(f"the file {exc}")


def _check_settings(report: Report, connection: sqlite3.Connection) -> None:
    with contextlib.suppress(sqlite3.DatabaseError):  # the check of the tree reports the place
        report.errors += schema.settings(connection)[1]


def _check_queues(report: Report, connection: sqlite3.Connection, progress: Progress) -> None:
    reader = Reader(connection, report.path, has_checksums=report.format > 1)
    rows = list(queue_rows(connection, report.format))
    total = sum(max(queue.counted, 0) for queue, _, _, sound in rows if sound)
    known = set()
    done = 0
    for queue, unchecked, _, sound in rows:
        if not sound:
            report.errors.append(f"the row of queue number {queue.number} is damaged: its name and jobs are not known")
            continue
        known.add(queue.number)
        if queue.name:
            for window_rows in _check_rows(queue, reader, QueueRows(queue.number, seed(queue.name), unchecked)):
                done += window_rows
                progress(done, total)
            report.queues.append(queue)
    for number in _numbers(connection):
        if number not in known:
            report.errors.append(f"there are jobs of queue number {number}, but no such queue")


def _check_rows(queue: QueueReport, reader: Reader, source: QueueRows) -> Iterator[int]:
    after, upto = lowest_id(source.number), highest_id(source.number)
    while after < upto:
        window = reader.read(source, after, upto, WINDOW_ROWS, WINDOW_BYTES)
        after = window.upto
        queue.jobs += len(window.items)
        queue.bytes += sum(len(item.data) for item in window.items)
        queue.unchecked += window.unchecked
        queue.damaged += len(window.damaged)
        queue.damages += window.damaged[: _KEPT_DAMAGES - len(queue.damages)]
        yield len(window.items) + len(window.damaged)


def _numbers(connection: sqlite3.Connection) -> Iterator[int]:
    after = -(2**63)
    with contextlib.suppress(sqlite3.DatabaseError):  # the check of the tree reports the place
        while (row := connection.execute("SELECT id FROM items WHERE id > ? LIMIT 1", (after,)).fetchone()) is not None:
            if row[0] <= after:  # so does a search in a damaged tree
                return
            number = row[0] >> SEQUENCE_BITS
            after = highest_id(number)
            yield number


def _check_parts(report: Report, connection: sqlite3.Connection) -> None:
    """Parts that no row needs, and rows of `unfinished` that are damaged. Missing parts are damage of their job."""
    if not schema.has_parts(connection):
        return
    with contextlib.suppress(sqlite3.DatabaseError):  # the check of the tree reports the place
        unfinished, damaged = unfinished_rows(connection)
        if damaged:
            rows = counted(damaged, "row of parts to remove is", "rows of parts to remove are")
            report.errors.append(f"{rows} damaged: these parts stay in the file")
        references = connection.execute(f"SELECT CAST(data AS BLOB) FROM items WHERE {IS_LARGE}")
        sizes = {found.number: found.size for row in references if (found := unpack(row[0])) is not None}
        for number, size in _stored_parts(connection):
            if number not in unfinished and size > sizes.get(number, 0):
                what = "beyond the end of a large job" if number in sizes else "of a large job that no queue holds"
                report.errors.append(f"there are parts {what} (number {number})")


def _stored_parts(connection: sqlite3.Connection) -> Iterator[tuple[int, int]]:
    """The numbers of parts, and how many bytes each has. Raises sqlite3.DatabaseError."""
    after = -(2**63)
    while (row := connection.execute("SELECT id FROM parts WHERE id > ? LIMIT 1", (after,)).fetchone()) is not None:
        if row[0] <= after:  # so does a search in a damaged tree
            return
        number = row[0] >> PLACE_BITS
        after = last_part_id(number)
        sizes = connection.execute("SELECT sum(length(data)) FROM parts WHERE id BETWEEN ? AND ?", (row[0], after))
        yield number, sizes.fetchone()[0] or 1


def _check_tree(report: Report, connection: sqlite3.Connection) -> None:
    connection.text_factory = str  # the reader needs bytes
    try:
        found = [row[0] for row in connection.execute(f"PRAGMA integrity_check({_TREE_ERRORS})")]
    except sqlite3.DatabaseError as exc:
        found = [str(exc)]
    if found != ["ok"]:
        report.errors += [f"the tree: {line}" for text in found for line in text.splitlines() if "***" not in line]
