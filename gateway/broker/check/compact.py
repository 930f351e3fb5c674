"""Gives back the disk space of removed jobs, which the file keeps for new ones."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from gateway.broker.storage import opening, schema
from gateway.broker.storage.reader import DatabaseError


def compact(path: Path) -> tuple[int, int]:
    """Rewrites the file at `path`, which is locked, in one transaction. Returns its size in bytes before and after.

    Raises DatabaseError: the file is as it was. The new content and its log need disk space until the end.
    """
    before = path.stat().st_size
    connection, mark = opening.open_file(path, fsync=True)
    try:
        mark.clear()
        try:
            connection.execute("VACUUM")
        finally:
            connection.close()  # checkpoints the log into the file
            mark.close()
    except sqlite3.Error as exc:
        raise DatabaseError(f"{path}: cannot be compacted: {schema.with_advice(exc)}") from exc
    return before, path.stat().st_size
