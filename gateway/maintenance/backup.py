"""Copies a data directory while a gateway uses it. The copy is a data directory: `serve --data COPY` uses it.

Each database is copied by SQLite in one read transaction (https://www.sqlite.org/backup.html), so the copy has every
commit from before the transaction, and writers do not wait. The idempotency keys are copied before the jobs: a key that
is in the copy was remembered after its jobs were stored, so its jobs are in the copy, too. In the other order, a
repeated request could be answered although its jobs are missing.

Nothing has the name of the copy until everything in it is complete and on disk.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gateway.common import data_formats
from gateway.common.net import reason
from gateway.common.sync import sync
from gateway.files import PRIVATE_UMASK, make_directory

BROKER: Final = data_formats.JOBS
KEYS: Final = data_formats.KEYS
LEASE_KEY: Final = "lease.key"
_PAGES: Final = 1024
"""Copied between two calls of `progress`; the transaction goes on. 4 MiB."""

Progress = Callable[[str, int, int], None]
"""Called with a file's name, the pages that are copied, and all its pages."""


class BackupError(Exception):
    """There is no copy. The message says why."""


def back_up(data: Path, copy: Path, progress: Progress) -> list[str]:
    """Copies the directory `data` to `copy`, which does not exist yet. Returns the names of the files.

    Raises BackupError.
    """
    try:
        (data / LEASE_KEY).stat()
    except (FileNotFoundError, NotADirectoryError) as exc:
        what = f"it has no {LEASE_KEY}; give the directory of --data"
        raise BackupError(f"{data} is not a data directory: {what}") from exc
    except OSError as exc:
        raise BackupError(f"{data} cannot be read: {exc.strerror}; run backup as the gateway's user") from exc
    if copy.resolve().is_relative_to(data.resolve()):
        raise BackupError(f"{copy} is inside {data}, and would be lost with it; name a directory elsewhere")
    if os.path.lexists(copy):
        raise BackupError(f"{copy} exists already; name a directory that does not exist")
    try:
        refused = data_formats.refused(data)
    except (OSError, sqlite3.Error) as exc:
        raise BackupError(f"{data}: {reason(exc)}") from exc
    if refused is not None:
        raise BackupError(refused)
    before = os.umask(PRIVATE_UMASK)
    partial = copy.with_name(f"{copy.name}.partial")
    try:
        make_directory(copy.absolute().parent)
        shutil.rmtree(partial, ignore_errors=True)  # of a backup that was killed
        partial.mkdir(mode=0o700)
        names = [name for name in (KEYS, BROKER, LEASE_KEY) if (data / name).is_file()]
        for name in names:
            if name == LEASE_KEY:
                shutil.copyfile(data / name, partial / name)
            else:
                _copy(data / name, partial / name, progress)
            sync(partial / name)
        sync(partial)
        partial.rename(copy)
        sync(copy.absolute().parent)
    except (OSError, sqlite3.Error) as exc:
        shutil.rmtree(partial, ignore_errors=True)
        raise BackupError(f"{copy}: {reason(exc)}") from exc
    finally:
        os.umask(before)
    return names


def _copy(source: Path, target: Path, progress: Progress) -> None:
    """Raises sqlite3.Error."""
    with (
        contextlib.closing(_reading(source)) as found,
        contextlib.closing(sqlite3.connect(target, isolation_level=None)) as made,
    ):
        found.execute("BEGIN")
        found.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # here the transaction begins
        found.backup(
            made, pages=_PAGES, sleep=0, progress=lambda _, left, total: progress(target.name, total - left, total)
        )


def _reading(path: Path) -> sqlite3.Connection:
    """A connection that changes nothing, not even the log of a gateway that was killed."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    connection.execute("PRAGMA busy_timeout=5000")
    return connection
