"""The layout of `broker.sqlite`: creates it, upgrades older layouts, refuses unknown ones.

`PRAGMA user_version` is the format.

1   items(id, added_ms, expires_ms, data), queues(number, name, items, bytes, ever), meta(key, value).
2   items and queues have a checksum (checksum.py). Items from format 1 have ids up to `unchecked` of their queue, and
    no checksum at first: they get one while the broker serves, in slices.
3   Large items have their bytes in `parts` (large/). A file gets this format with its first large item, and format 2
    again when the broker stops and no part is left.

A change of format is one transaction, so a killed process leaves the old format or the new one. A new file is created
in format 1 and upgraded: there is one path, and `sqlite_schema` of every file is the same.
"""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from typing import Final

from gateway.broker.storage import checksum
from gateway.broker.storage.batch import SEQUENCE_BITS
from gateway.broker.storage.transaction import transaction
from gateway.common import data_formats

log = logging.getLogger(__name__)

FORMAT: Final = 2
"""Of a file without large items."""
FORMAT_WITH_PARTS: Final = data_formats.NEWEST[data_formats.JOBS]
APPLICATION_ID: Final = 0x4B474231  # "KGB1"
CHECK: Final = "`kestrel-gateway broker check` says what is damaged"

_QUEUES: Final = """CREATE TABLE queues (
    number INTEGER PRIMARY KEY, name BLOB, items INTEGER NOT NULL, bytes INTEGER NOT NULL, ever INTEGER NOT NULL
)"""
_ITEMS: Final = """CREATE TABLE items (
    id INTEGER PRIMARY KEY, added_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL, data BLOB NOT NULL
)"""
_FORMAT_1: Final = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    _QUEUES,
    _ITEMS,
)
_FORMAT_2: Final = (
    "ALTER TABLE queues ADD COLUMN unchecked INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE queues ADD COLUMN checksum INTEGER",
    "ALTER TABLE items ADD COLUMN checksum INTEGER",
)
_FORMAT_3: Final = (
    "CREATE TABLE parts (id INTEGER PRIMARY KEY, data BLOB NOT NULL)",
    "CREATE TABLE unfinished (number INTEGER PRIMARY KEY, checksum INTEGER NOT NULL)",
)

STATUSES: Final = frozenset({"UP", "WRITEAVOID", "READONLY", "QUIESCENT"})
"""What `meta` holds under `status`: the names of broker.Status."""
PROBE: Final = "probe"
"""The key of the row with which a full disk is tried."""
_WRITE_VERSION_AT: Final = 18
_NEWEST_WRITE_VERSION: Final = 2
"""Source: https://www.sqlite.org/fileformat2.html#file_format_version_numbers. SQLite only reads a file above it."""


_RIGHTS: Final = frozenset({sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY})
"""What SQLite says of a file that this user may not open or write."""


class SchemaError(Exception):
    """The broker cannot use the file. The message says why."""


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Afterwards the file has at least FORMAT. Raises SchemaError, sqlite3.Error."""
    version = inspect(connection)
    if version >= FORMAT:
        return
    if version == 0:
        path.chmod(0o600)
    with transaction(connection):
        if version == 0:
            for statement in _FORMAT_1:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        _add_checksums(connection)
        connection.execute(f"PRAGMA user_version={FORMAT}")
    if version:
        log.warning("%s: upgraded from format %d to %d; older versions can no longer use it", path, version, FORMAT)


def has_parts(connection: sqlite3.Connection) -> bool:
    """Whether the file has format 3. Raises sqlite3.Error."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0]) == FORMAT_WITH_PARTS


def add_parts(connection: sqlite3.Connection) -> None:
    """Part of a transaction: format 2 to 3. Raises sqlite3.Error."""
    for statement in _FORMAT_3:
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version={FORMAT_WITH_PARTS}")


def remove_parts(connection: sqlite3.Connection) -> bool:
    """Format 3 to 2, unless there are parts; returns whether it was done. Raises sqlite3.Error."""
    with transaction(connection):
        for table in ("parts", "unfinished"):
            if connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is not None:
                return False
        connection.execute("DROP TABLE parts")
        connection.execute("DROP TABLE unfinished")
        connection.execute(f"PRAGMA user_version={FORMAT}")
    return True


def inspect(connection: sqlite3.Connection) -> int:
    """The file's format, 0 if it is empty; writes nothing. Raises SchemaError, sqlite3.Error."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    found = connection.execute("SELECT name, rootpage, sql FROM sqlite_schema WHERE type = 'table'").fetchall()
    if not found:
        return 0
    if application != APPLICATION_ID:
        raise SchemaError("is not a file of the broker")
    if (why := data_formats.refusal(data_formats.JOBS, version)) is not None:
        raise SchemaError(why)
    if version < 1 or {name: sql for name, _, sql in found} != _tables(version) or not _roots_differ(found):
        raise SchemaError(f"is damaged: its tables are not those of format {version}; restore it from a backup")
    return version


def read_header(path: Path) -> bytes:
    """The beginning of the file at `path`; empty if it cannot be read, since SQLite then says why.

    Call it before this process opens the database. Closing any descriptor of the file releases SQLite's locks on it:
    the next process that reads the file and ends would take itself for the last user, and delete the log that the
    broker writes. Source: https://www.sqlite.org/howtocorrupt.html, section 2.2.
    """
    try:
        with path.open("rb") as file:
            return file.read(_WRITE_VERSION_AT + 1)
    except OSError:
        return b""


def check_header(header: bytes) -> None:
    """Raises SchemaError if SQLite would open a file with this header only for reading."""
    version = header[-1] if len(header) > _WRITE_VERSION_AT else 0
    if version > _NEWEST_WRITE_VERSION:
        raise SchemaError(
            f"is damaged: its header has the write version {version}, so SQLite does not write to it; "
            "`kestrel-gateway broker check --repair` makes a sound file"
        )


def settings(connection: sqlite3.Connection) -> tuple[dict[str, str], list[str]]:
    """The rows of `meta`, and a sentence for each that is damaged and left out. They have no checksum, so each value is
    compared with the values that it may have. Raises sqlite3.Error."""
    found: dict[str, str] = {}
    faults: list[str] = []
    for row in connection.execute("SELECT CAST(key AS BLOB), CAST(value AS BLOB) FROM meta"):
        key, value = (bytes(each).decode("utf-8", "backslashreplace") for each in row)
        if key == "status" and value not in STATUSES:
            faults.append(
                f"the stored status {value[:40]!r} is damaged; without it the broker starts with the status UP"
            )
        elif key not in ("status", PROBE):
            faults.append(f"the stored setting {key[:40]!r} is unknown")
        else:
            found[key] = value
    return found, faults


def is_damage(error: BaseException) -> bool:
    """Whether SQLite has found a damaged place in the file."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return isinstance(error, sqlite3.Error) and code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_lasting(error: BaseException) -> bool:
    """Whether another attempt would fail in the same way, until somebody changes the file or its rights."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return isinstance(error, SchemaError | PermissionError) or is_damage(error) or code in _RIGHTS


def with_advice(error: BaseException) -> str:
    """The error, and what to do if the file is damaged."""
    return f"{error}; {CHECK}" if is_damage(error) else str(error)


def _roots_differ(found: list[tuple[str, int, str]]) -> bool:
    return len({root for _, root, _ in found}) == len(found)


def _tables(version: int) -> dict[str, str]:
    """The tables of a format, each with its definition as SQLite writes it."""
    with sqlite3.connect(":memory:") as scratch:
        for statement in (_FORMAT_1, _FORMAT_1 + _FORMAT_2, _FORMAT_1 + _FORMAT_2 + _FORMAT_3)[version - 1]:
            scratch.execute(statement)
        found = dict(scratch.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table'").fetchall())
    scratch.close()
    return found


def _add_checksums(connection: sqlite3.Connection) -> None:
    """Format 1 to 2. No item is changed, so the time does not depend on their number."""
    for statement in _FORMAT_2:
        connection.execute(statement)
    for number, name in connection.execute("SELECT number, name FROM queues").fetchall():
        low, high = number << SEQUENCE_BITS, ((number + 1) << SEQUENCE_BITS) - 1
        span = connection.execute("SELECT max(id) FROM items WHERE id BETWEEN ? AND ?", (low, high))
        unchecked = span.fetchone()[0] or 0
        connection.execute(
            "UPDATE queues SET unchecked = ?, checksum = ? WHERE number = ?",
            (unchecked, checksum.of_queue(number, name, unchecked), number),
        )
