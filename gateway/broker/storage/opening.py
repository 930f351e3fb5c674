"""Opens the SQLite file of a data directory: locks the directory, and finds out what a killed broker left."""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path

from gateway.broker.storage import schema
from gateway.broker.storage.reader import DatabaseError, UnusableFileError
from gateway.common import data_formats, wal
from gateway.common.counted import counted
from gateway.common.locks import locked_within

log = logging.getLogger(__name__)

FILE = data_formats.JOBS
LOCK = "broker.lock"


def lock(directory: Path, wait_s: float) -> int:
    """Creates the directory if it is missing, and locks it. Returns the lock's descriptor. Raises DatabaseError."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        kind = UnusableFileError if isinstance(exc, PermissionError) else DatabaseError
        raise kind(f"data directory {directory}: {exc.strerror or exc}") from exc
    try:
        is_free = locked_within(wait_s, descriptor)
    except OSError as exc:
        os.close(descriptor)
        raise DatabaseError(f"data directory {directory}: cannot be locked: {exc.strerror or exc}") from exc
    if not is_free:
        os.close(descriptor)
        raise DatabaseError(f"data directory {directory}: in use by another broker")
    return descriptor


def connect(path: Path) -> sqlite3.Connection:
    """A connection for one thread at a time. Raises sqlite3.Error."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    connection.execute("PRAGMA busy_timeout=5000")
    connection.execute("PRAGMA cache_size=-8000")
    connection.execute("PRAGMA cell_size_check=1")
    return connection


def open_file(path: Path, *, fsync: bool) -> tuple[sqlite3.Connection, wal.Mark]:
    """The file, of today's format, ready to be written, and the mark of its log. Raises DatabaseError."""
    frames = _expected_frames(path)
    try:
        header = schema.read_header(path)
        connection = connect(path)
        try:
            if schema.inspect(connection):
                schema.check_header(header)
            connection.execute("PRAGMA journal_mode=WAL").fetchone()
            _tell_lost_commits(connection, path, frames)
            connection.execute(f"PRAGMA synchronous={'FULL' if fsync else 'NORMAL'}")
            schema.prepare(connection, path)
            mark = wal.Mark(path)
            mark.clear()
        except BaseException:
            connection.close()
            raise
    except (sqlite3.Error, schema.SchemaError, OSError, ValueError) as exc:
        kind = UnusableFileError if schema.is_lasting(exc) else DatabaseError
        raise kind(f"{path}: {schema.with_advice(exc)}") from exc
    return connection, mark


def _expected_frames(path: Path) -> int:
    """The length of the log that a killed broker left. Raises DatabaseError if the log's database is lost: SQLite
    would discard the log and begin a new one."""
    log_path = path.with_name(f"{path.name}-wal")
    try:
        if wal.last_commit(log_path) and (not path.exists() or not path.stat().st_size):
            raise UnusableFileError(
                f"{path}: is empty or missing, but its log ({log_path.name}) contains jobs; restore the file from a "
                "backup, or move the log away to start without jobs"
            )
        return wal.expected(path)
    except OSError as exc:
        raise DatabaseError(f"{log_path}: {exc.strerror or exc}") from exc


def _tell_lost_commits(connection: sqlite3.Connection, path: Path, frames: int) -> None:
    if not frames:
        return
    _, taken, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    if taken < frames:
        log.error(
            "%s-wal is damaged: %d of its %s could be read; what was committed after them is lost: "
            "jobs may be missing, and jobs that were removed may be back",
            path,
            max(taken, 0),
            counted(frames, "frame"),
        )
