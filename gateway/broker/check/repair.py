"""Makes a sound file from a damaged one: every row that can be read and has a valid checksum, under its queue.

The damaged file stays in the directory. Nothing changes until the new file gets its name, which is one step.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path

from gateway.broker.check.examine import WINDOW_BYTES, WINDOW_ROWS, Progress, opened, queue_rows
from gateway.broker.storage import schema
from gateway.broker.storage.batch import StoredItem, reference_of
from gateway.broker.storage.checksum import of_queue, seed
from gateway.broker.storage.inventory import highest_id, lowest_id
from gateway.broker.storage.large.format import PART_BYTES, part_id
from gateway.broker.storage.reader import DatabaseError, QueueRows, Reader
from gateway.common.net import reason
from gateway.common.sync import sync

_INSERT = "INSERT INTO items (id, added_ms, expires_ms, data, checksum) VALUES (?, ?, ?, ?, ?)"


def repair(path: Path, progress: Progress) -> Path:
    """Replaces the file at `path`, which is locked; returns the new path of the damaged one. Raises DatabaseError."""
    new = path.with_name(f"{path.name}-repaired")
    kept = path.with_name(f"{path.name}-damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    try:
        _fold_log(path)
        new.unlink(missing_ok=True)
        with opened(path) as source, contextlib.closing(sqlite3.connect(new, isolation_level=None)) as target:
            target.execute("PRAGMA synchronous=FULL")
            schema.prepare(target, new)
            _copy(source, path, target, progress)
        os.link(path, kept)
        new.rename(path)
        sync(path.parent)
    except (OSError, sqlite3.Error, schema.SchemaError) as exc:
        raise DatabaseError(f"{path}: cannot be repaired: {reason(exc)}") from exc
    return kept


def _fold_log(path: Path) -> None:
    """Checkpoints the log, which belongs to the damaged file and would damage another one."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    for end in ("-wal", "-shm", "-mark"):
        path.with_name(f"{path.name}{end}").unlink(missing_ok=True)


def _copy(source: sqlite3.Connection, path: Path, target: sqlite3.Connection, progress: Progress) -> None:
    format_ = schema.inspect(source)
    with contextlib.suppress(sqlite3.DatabaseError):  # it contains one or two settings, and no job
        for pair in schema.settings(source)[0].items():
            target.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", pair)
    reader = Reader(source, path, has_checksums=format_ > 1)
    rows = [(queue, mark, ever) for queue, mark, ever, sound in queue_rows(source, format_) if sound and queue.name]
    total = sum(max(queue.counted, 0) for queue, _, _ in rows)
    done = 0
    for queue, unchecked, ever in rows:
        after, upto = lowest_id(queue.number), highest_id(queue.number)
        from_ = QueueRows(queue.number, seed(queue.name), unchecked)
        while after < upto:
            window = reader.read(from_, after, upto, WINDOW_ROWS, WINDOW_BYTES)
            after = window.upto
            target.execute("BEGIN")
            for item in window.items:
                row = item.id, item.added_ms, item.expires_ms, _copy_parts(item, target), item.checksum
                target.execute(_INSERT, row)
            target.execute("COMMIT")
            queue.jobs += len(window.items)
            queue.bytes += sum(len(item.data) for item in window.items)
            done += len(window.items)
            progress(done, total)
        put = ever if type(ever) is int and 0 <= ever < 2**62 else queue.jobs
        target.execute(
            "INSERT INTO queues (number, name, items, bytes, ever, unchecked, checksum) VALUES (?, ?, ?, ?, ?, 0, ?)",
            (queue.number, queue.name, queue.jobs, queue.bytes, put, of_queue(queue.number, queue.name, 0)),
        )


def _copy_parts(item: StoredItem, target: sqlite3.Connection) -> bytes | str:
    """What its row has as data: the bytes, or for a large item the reference, after its parts are written."""
    reference = reference_of(item)
    if reference is None:
        return item.data
    if not schema.has_parts(target):
        schema.add_parts(target)
    data = memoryview(item.data)
    for place, at in enumerate(range(0, len(data), PART_BYTES)):
        row = part_id(reference.number, place), data[at : at + PART_BYTES]
        target.execute("INSERT INTO parts VALUES (?, ?)", row)
    return reference.pack().decode("ascii")
