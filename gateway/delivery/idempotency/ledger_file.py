"""The file of the ledger of idempotency keys: its layout, its checksums, and the detection of damage. Knows no states.

`PRAGMA user_version` is its format. 0: entries without checksums, from earlier versions. 1: each entry has a CRC-32
over all its fields except its number. A change of format is one transaction.

A damaged entry is never used. An entry is found in two ways, by its number, which is a hash of its key, and by the
index: damage of one of the two trees hides no entry. (Earlier versions counted the numbers; the index alone finds these
entries.) If both are damaged, or the log lost commits, a retry may store twice; `prepare` and `damages` report that.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple
from zlib import crc32

from gateway.common import data_formats, wal
from gateway.common.counted import counted

NAME: Final = data_formats.KEYS
FORMAT: Final = data_formats.NEWEST[NAME]
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
"""Sets the checksums of entries that have none yet."""
FOUND: Final = f"SELECT number, {FIELDS}, checksum FROM entries WHERE "  # noqa: S608 - as above
ADD: Final = f"INSERT INTO entries (number, {FIELDS}, checksum) VALUES ({', '.join('?' * 13)})"  # noqa: S608 - as above
CHANGE: Final = (
    "UPDATE entries SET state = ?, owner = ?, held_until_s = ?, status = ?, body = ?, checksum = ? WHERE number = ?"
)
MOVE_AWAY: Final = (
    f"the file is damaged; stop the gateway, move {NAME}* out of the data directory and start it again: all keys are "
    "forgotten then, and a repeated request stores its jobs again"
)
_NOT_DAMAGE: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
    }
)
"""Errors of the disk, of rights and of other programs: the file itself is not damaged."""


class UnknownFormatError(Exception):
    """The file has a newer format. The message names it and says what to do."""


def checksum(*fields: Any) -> int:
    """The checksum of an entry; its fields are in the order of FIELDS."""
    return crc32(repr(fields).encode())


def number_of(tenant: str, queue: str, key: str) -> int:
    """The number of a new entry, 0 to 2**62: two keys have the same one with a probability of 2**-62."""
    digest = hashlib.blake2b(repr((tenant, queue, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 2


class Row(NamedTuple):
    """A row as FOUND selects it. Damage can change any field, also its type."""

    number: int
    tenant: str
    queue: str
    key: str
    state: int
    fingerprint: bytes
    seed: bytes
    owner: str
    claimed_s: float
    held_until_s: float
    status: int | None = None
    body: bytes | None = None
    checksum: int | None = None

    @property
    def is_sound(self) -> bool:
        """Whether it has its checksum."""
        return self.checksum == checksum(*self[1:-1])

    def sealed(self) -> Row:
        """The same row with its checksum."""
        return self._replace(checksum=checksum(*self[1:-1]))


def explained(error: Exception) -> str:
    """The error, and what an operator does if the file itself is damaged."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    damaged = isinstance(error, sqlite3.DatabaseError) and code & 0xFF not in _NOT_DAMAGE
    return f"{error}: {MOVE_AWAY}" if damaged else str(error)


@contextlib.contextmanager
def _decoded_errors() -> Iterator[None]:
    """Python cannot raise an error of SQLite whose text is not UTF-8, which it quotes from a damaged schema."""
    try:
        yield
    except UnicodeDecodeError as exc:
        raise sqlite3.DatabaseError("malformed database schema") from exc


def opened(path: Path, *, synced: bool) -> sqlite3.Connection:
    """The file in the current format, created if it is missing. Waits for another worker that is creating it.

    Raises sqlite3.Error, UnknownFormatError.
    """
    deadline_s = time.monotonic() + BUSY_S
    while True:
        file = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            file.text_factory = _readable
            file.create_function("entry_checksum", -1, checksum, deterministic=True)
            with _decoded_errors():
                # SQLite does not wait here while another worker does the same.
                file.execute("PRAGMA journal_mode = WAL")
                file.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
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
        f"{path}-wal is damaged: {max(taken, 0)} of its {counted(frames, 'frame')} could be read; idempotency "
        "keys in the others "
        "are forgotten: a retry with one of them stores its job again"
    )


def damages(path: Path) -> Iterator[str]:
    """Reads the whole file while it is in use; yields a sentence for each damage. Raises sqlite3.Error."""
    if not path.exists():
        return
    with (
        _decoded_errors(),
        contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as file,
    ):
        file.text_factory = _readable
        lines = [
            line for (text,) in file.execute(f"PRAGMA integrity_check({_MOST_NAMED})") for line in text.splitlines()
        ]
        if lines != ["ok"]:
            yield f"{path} is damaged; a retry may store its job again: {'; '.join(lines[:_MOST_NAMED])}: {MOVE_AWAY}"
        bad = sum(not Row(*each).is_sound for each in file.execute(FOUND + "true"))
        if bad:
            yield f"{path}: {counted(bad, 'idempotency key is', 'idempotency keys are')} damaged: requests "
            "with such a key are refused; use other keys"


def _readable(text: bytes) -> str:
    """The text of a field, which damage may have made invalid."""
    return text.decode("utf-8", "surrogateescape")


def _bring_up_to_date(file: sqlite3.Connection, path: Path) -> None:
    if _format(file) == FORMAT:
        return
    file.execute("BEGIN IMMEDIATE")
    try:
        version = _format(file)  # another worker may have upgraded it in the meantime
        if (why := data_formats.refusal(NAME, version)) is not None:
            raise UnknownFormatError(f"{path}: {why}")
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
