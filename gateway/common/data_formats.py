"""The formats of the SQLite files in a data directory, and the refusal of newer ones. Changes no file.

`PRAGMA user_version` is the format. Each owner knows the layouts: broker/storage/schema.py and
delivery/idempotency/ledger_file.py.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Final

JOBS: Final = "broker.sqlite"
KEYS: Final = "idempotency.db"
NEWEST: Final = {JOBS: 3, KEYS: 1}
"""The newest format that this version writes and reads, by the name of the file."""


def refusal(name: str, version: int) -> str | None:
    """Why this version does not use a file of that name and format; None if it does."""
    if version <= NEWEST[name]:
        return None
    return (
        f"format {version} is above {NEWEST[name]}, the newest that this version of kestrel-gateway knows: "
        "use the version that wrote it, or a newer one"
    )


def refused(data: Path, *, embedded: bool = True) -> str | None:
    """The first file of the directory that has a newer format, and why it is refused; None if there is none.

    embedded: whether the file of the jobs counts. Raises OSError, sqlite3.Error: a file cannot be read, or is damaged.
    """
    for name in NEWEST if embedded else (KEYS,):
        path = data / name
        if path.exists() and (why := refusal(name, _format(path))) is not None:
            return f"{path}: {why}"
    return None


def _format(path: Path) -> int:
    """Without a log the file alone is read, so that SQLite makes no file beside it."""
    log = path.with_name(f"{path.name}-wal")
    how = "mode=ro" if log.exists() and log.stat().st_size else "mode=ro&immutable=1"
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True)) as file:
        file.execute("PRAGMA busy_timeout=5000")
        return int(file.execute("PRAGMA user_version").fetchone()[0])
