"""Which idempotency keys were used on this host, and how they were answered: one SQLite file for all workers.

Owns the states of an entry. ledger_thread.py runs its transactions. Knows no HTTP and stores no job.

1. A claim is on disk before its job is sent; an answer is on disk before it is returned.
2. An entry keeps its seed until it is removed, so a request that takes it over stores the job under the same id.
3. An entry is removed if its job was never sent or its time is over, and the oldest DONE entries if there are more
   than the limit.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

from gateway.common.limited_log import LimitedLog
from gateway.delivery.idempotency.ledger_file import ADD, CHANGE, FOUND, Row, explained, number_of
from gateway.delivery.idempotency.ledger_thread import LedgerThread

log = logging.getLogger(__name__)

ScopedKey = tuple[str, str, str]
"""Tenant, queue and idempotency key."""

SEED_BYTES: Final = 16
SWEEP_EVERY_S: Final = 30.0
SWEEP_EVERY_CLAIMS: Final = 1000
SWEEP_ROWS: Final = 2000
"""Old entries are removed at this interval, or earlier after this many new ones, and at most this many at a time: a
sweep locks the file for some milliseconds."""


_PLACE: Final = "tenant = ? AND queue = ? AND key = ?"
_NUMBER: Final = "number = ?"


class EntryState(IntEnum):
    """CLAIMED: its owner is storing the job. UNKNOWN: sent, with an unknown outcome. DONE: stored and answered."""

    CLAIMED = 1
    UNKNOWN = 2
    DONE = 3


MOVES: Final = {
    EntryState.CLAIMED: frozenset(
        {EntryState.CLAIMED, EntryState.UNKNOWN, EntryState.DONE}
    ),  # CLAIMED: taken over from a dead owner
    EntryState.UNKNOWN: frozenset({EntryState.CLAIMED}),
    EntryState.DONE: frozenset[EntryState](),
}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it is returned again."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """What `claim` found or made.

    mine: the caller must store the job now. fresh: it was never sent before, so it may be released. reply: if DONE.
    """

    seed: bytes
    fingerprint: bytes
    mine: bool
    fresh: bool = False
    reply: Reply | None = None


class DamagedEntryError(Exception):
    """The entry is damaged: it is unknown whether its request was stored."""


class Ledger:
    """The file as one worker uses it. It is opened by the first claim.

    owner: this worker's boot id. alive: whether the worker with a boot id is alive; called in the ledger's thread.
    window_s, limit: how long and how many entries are kept. synced: whether a commit waits for the disk.
    Every method raises sqlite3.Error or UnknownFormatError if the file cannot be used, and DamagedEntryError if the
    entry cannot be used. Then the operation has not happened.
    """

    def __init__(
        self, path: Path, owner: str, alive: Callable[[str], bool], *, window_s: float, limit: int, synced: bool = True
    ) -> None:
        self._path = path
        self._owner = owner
        self._alive = alive
        self._window_s = window_s
        self._limit = limit
        self._thread = LedgerThread(path, synced=synced, last=self._sweep_if_due)
        self._claims = 0
        self._swept_s = 0.0
        self._limited = LimitedLog()

    async def claim(self, place: ScopedKey, fingerprint: bytes, hold_s: float) -> Entry:
        """The entry at `place`: created if missing, taken over if its owner is dead or its outcome unknown.

        hold_s: how long others must not take it over. An entry with another fingerprint is not changed.
        Cancelled: it may have been claimed.
        """
        return await self._thread.do(lambda file: self._claim(file, place, fingerprint, hold_s))

    async def settle(self, place: ScopedKey, reply: Reply) -> None:
        """The caller's claim is DONE: from now on `claim` returns the reply."""
        await self._thread.do(lambda file: self._move(file, place, EntryState.DONE, reply))

    async def leave(self, place: ScopedKey) -> None:
        """The caller's claim is UNKNOWN: the next claim takes it over with its seed."""
        await self._thread.do(lambda file: self._move(file, place, EntryState.UNKNOWN, None))

    async def release(self, place: ScopedKey) -> None:
        """Removes the caller's claim. Only for jobs that were certainly never sent."""
        await self._thread.do(lambda file: self._remove(file, place))

    async def close(self) -> None:
        """Returns when everything that was started is on disk and the file is closed."""
        await self._thread.close()

    # These run in the thread, inside a transaction

    def _claim(self, file: sqlite3.Connection, place: ScopedKey, fingerprint: bytes, hold_s: float) -> Entry:
        now_s = time.time()
        row = _found(file, place)
        if row is not None and max(row.claimed_s + self._window_s, row.held_until_s) <= now_s:
            _delete(file, row)
            row = None
        if row is None:
            self._claims += 1
            seed = secrets.token_bytes(SEED_BYTES)
            file.execute(
                ADD,
                Row(
                    number=number_of(*place),
                    tenant=place[0],
                    queue=place[1],
                    key=place[2],
                    state=EntryState.CLAIMED.value,
                    fingerprint=fingerprint,
                    seed=seed,
                    owner=self._owner,
                    claimed_s=now_s,
                    held_until_s=now_s + hold_s,
                ).sealed(),
            )
            return Entry(seed, fingerprint, mine=True, fresh=True)
        if row.fingerprint != fingerprint or row.state == EntryState.DONE:
            return Entry(row.seed, row.fingerprint, mine=False, reply=_reply(row))
        # A claim of this worker that is claimed again was abandoned: no request is still storing for it.
        held = row.state == EntryState.CLAIMED and row.owner != self._owner and now_s < row.held_until_s
        if held and self._alive(row.owner):
            return Entry(row.seed, row.fingerprint, mine=False)
        assert EntryState.CLAIMED in MOVES[EntryState(row.state)]
        _change(file, row._replace(state=EntryState.CLAIMED.value, owner=self._owner, held_until_s=now_s + hold_s))
        return Entry(row.seed, row.fingerprint, mine=True)

    def _move(self, file: sqlite3.Connection, place: ScopedKey, to: EntryState, reply: Reply | None) -> None:
        """Changes the caller's claim; raises DamagedEntryError, so that a damaged entry gets no new checksum."""
        assert to in MOVES[EntryState.CLAIMED]
        if (row := self._claimed(file, place)) is not None:
            status, body = (reply.status, reply.body) if reply is not None else (None, None)
            _change(file, row._replace(state=to.value, status=status, body=body))

    def _remove(self, file: sqlite3.Connection, place: ScopedKey) -> None:
        if (row := self._claimed(file, place)) is not None:
            _delete(file, row)

    def _claimed(self, file: sqlite3.Connection, place: ScopedKey) -> Row | None:
        """This worker's claim; None if it has none, or another worker has taken it over. Raises DamagedEntryError."""
        row = _found(file, place)
        return row if row is not None and row.state == EntryState.CLAIMED and row.owner == self._owner else None

    def _sweep(self, file: sqlite3.Connection) -> None:
        """Removes expired entries, and the oldest ones above the limit; a bounded number at a time.

        Damaged entries stay: their time may be wrong, and a key that is forgotten early is stored twice.
        """
        now_s = time.time()
        over = _remove_oldest(file, "claimed_s <= ? AND held_until_s <= ?", (now_s - self._window_s, now_s), SWEEP_ROWS)
        excess = file.execute("SELECT count(*) FROM entries").fetchone()[0] - self._limit
        if excess > 0:
            _remove_oldest(file, "state = ?", (EntryState.DONE,), min(excess, SWEEP_ROWS))
            log.warning(
                "idempotency: the limit of %d keys is exceeded by %d, so the oldest are forgotten early; "
                "raise --max-idempotency-keys",
                self._limit,
                excess,
            )
        if over < SWEEP_ROWS and excess < SWEEP_ROWS:
            self._claims, self._swept_s = 0, time.monotonic()

    def _sweep_if_due(self, file: sqlite3.Connection) -> None:
        """A sweep that fails, because of damage that no request reads, is undone and fails no request."""
        if self._claims < SWEEP_EVERY_CLAIMS and time.monotonic() - self._swept_s <= SWEEP_EVERY_S:
            return
        file.execute("SAVEPOINT sweep")
        try:
            self._sweep(file)
        except sqlite3.Error as exc:
            file.execute("ROLLBACK TO sweep")
            self._claims, self._swept_s = 0, time.monotonic()
            if (more := self._limited.count("sweep")) is not None:
                log.error("%s: old keys cannot be removed: %s%s", self._path, explained(exc), more)  # noqa: TRY400
        file.execute("RELEASE sweep")


def _found(file: sqlite3.Connection, place: ScopedKey) -> Row | None:
    """The entry at `place`, found by its number or by the index. Raises DamagedEntryError."""
    found = file.execute(FOUND + _NUMBER, (number_of(*place),)).fetchone()
    if found is None:
        found = file.execute(FOUND + _PLACE, place).fetchone()
    if found is None:
        return None
    row = Row(*found)
    if (row.tenant, row.queue, row.key) != place or not row.is_sound:
        raise DamagedEntryError("the entry of this Idempotency-Key is damaged")
    return row


def _reply(row: Row) -> Reply | None:
    if row.state != EntryState.DONE:
        return None
    assert row.status is not None
    assert row.body is not None
    return Reply(row.status, row.body)


def _change(file: sqlite3.Connection, row: Row) -> None:
    row = row.sealed()
    file.execute(CHANGE, (row.state, row.owner, row.held_until_s, row.status, row.body, row.checksum, row.number))


def _delete(file: sqlite3.Connection, row: Row) -> None:
    file.execute("DELETE FROM entries WHERE number = ?", (row.number,))


def _remove_oldest(file: sqlite3.Connection, where: str, values: tuple[float, ...], limit: int) -> int:
    """Removes the oldest sound entries, at most `limit`. Returns their number."""
    rows = itertools.starmap(Row, file.execute(f"{FOUND} {where} ORDER BY claimed_s", values))
    numbers = [(row.number,) for row in itertools.islice((row for row in rows if row.is_sound), limit)]
    file.executemany("DELETE FROM entries WHERE number = ?", numbers)
    return len(numbers)
