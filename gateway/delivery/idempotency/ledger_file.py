"""The file of the ledger of idempotency keys: its layout, its checksums, and the detection of damage. Knows no states.

`PRAGMA user_version` is its format. 0: entries without checksums, from earlier versions. 1: each entry has a CRC-32
over all its fields except its number. A change of format is one transaction.

A damaged entry is never used. If entries cannot be found (a damaged index, a log that lost commits), a retry may store
twice; `prepare` and `damages` report that.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from zlib import crc32

from gateway.common import wal

NAME: Final = "idempotency.db"
FORMAT: Final = 1
# The workers' transactions are short; a longer wait means that another program holds the file.
BUSY_S: Final = 5.0
_MOST_NAMED: Final = 10

_ENTRIES: Final = """
CREATE TABLE entries (
    number INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    queue TEXT NOT NULL,
    key TEXT NOT NULL,
    state INTEGER NOT NULL,
    fingerprint BLOB NOT NULL,
    seed BLOB NOT NULL,
    owner TEXT NOT NULL,
    claimed_s REAL NOT NULL,
    held_until_s REAL NOT NULL,
    status INTEGER,
    body BLOB,
    UNIQUE (tenant, queue, key)
) STRICT
"""
FIELDS: Final = "tenant, queue, key, state, fingerprint, seed, owner, claimed_s, held_until_s, status, body"
SET_CHECKSUM: Final = f"UPDATE entries SET checksum = entry_checksum({FIELDS}) WHERE "  # noqa: S608 - the fields are the constants above
"""Run after every change of an entry, in its transaction."""


class UnknownFormatError(Exception):
    """The file has a newer format. The message names it and says what to do."""


def checksum(*fields: Any) -> int:
    """The checksum of an entry; its fields are in the order of FIELDS."""
    return crc32(repr(fields).encode())


def opened(path: Path, *, synced: bool) -> sqlite3.Connection:
    """The file in the current format, created if it is missing. Waits for another worker that is creating it.

    Raises sqlite3.Error, UnknownFormatError.
    """
    deadline_s = time.monotonic() + BUSY_S
    while True:
        file = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            file.execute("PRAGMA journal_mode = WAL")  # SQLite does not wait here while another worker does the same
            file.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
            file.create_function("entry_checksum", -1, checksum, deterministic=True)
            _bring_up_to_date(file, path)
        except sqlite3.OperationalError as exc:
            file.close()
            if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline_s:
                raise
            time.sleep(0.01)
        except BaseException:
            file.close()
            raise
        else:
            return file


def prepare(path: Path) -> str | None:
    """Upgrades the file before any worker uses it. Returns a sentence about what its log has lost, or None.

    Raises: UnknownFormatError. sqlite3.Error, OSError if it cannot be used; requests with a key will be refused.
    """
    if not path.exists():
        return None
    frames = wal.expected(path)
    with contextlib.closing(opened(path, synced=True)) as file:
        _, taken, _ = file.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    wal.forget(path)
    if taken >= frames:
        return None
    return (
        f"{path}-wal is damaged: {max(taken, 0)} of its {frames} frames could be read; idempotency keys in the others "
        "are forgotten: a retry with one of them stores its job again"
    )


def damages(path: Path) -> Iterator[str]:
    """Reads the whole file while it is in use; yields a sentence for each damage. Raises sqlite3.Error."""
    if not path.exists():
        return
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as file:
        file.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
        lines = [
            line for (text,) in file.execute(f"PRAGMA integrity_check({_MOST_NAMED})") for line in text.splitlines()
        ]
        if lines != ["ok"]:
            yield f"{path} is damaged; a retry may store its job again: {'; '.join(lines[:_MOST_NAMED])}"
        bad = 0
        for *fields, stored in file.execute(f"SELECT {FIELDS}, checksum FROM entries"):  # noqa: S608 - as above
            bad += stored != _checksum_of_any(fields)
        if bad:
            yield f"{path}: {bad} idempotency keys are damaged: requests with them are refused until their time is over"


def _checksum_of_any(fields: list[Any]) -> int | None:
    try:
        return checksum(*fields)
    except UnicodeEncodeError:
        return None


def _bring_up_to_date(file: sqlite3.Connection, path: Path) -> None:
    if _format(file) == FORMAT:
        return
    file.execute("BEGIN IMMEDIATE")
    try:
        version = _format(file)  # another worker may have upgraded it in the meantime
        if version > FORMAT:
            raise UnknownFormatError(
                f"{path}: format {version} is above {FORMAT}, the newest that this version of kestrel-gateway knows: "
                "use the version that wrote it, or a newer one"
            )
        if version < FORMAT:
            if not file.execute("SELECT 1 FROM sqlite_schema WHERE name = 'entries'").fetchone():
                file.execute(_ENTRIES)
                file.execute("CREATE INDEX by_time ON entries (claimed_s)")
            file.execute("ALTER TABLE entries ADD COLUMN checksum INTEGER")
            file.execute(SET_CHECKSUM + "true")
            file.execute(f"PRAGMA user_version = {FORMAT}")
        file.execute("COMMIT")
    except BaseException:
        if file.in_transaction:
            file.execute("ROLLBACK")
        raise


def _format(file: sqlite3.Connection) -> int:
    return int(file.execute("PRAGMA user_version").fetchone()[0])
