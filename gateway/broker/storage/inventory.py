"""The content of the file at a start: every queue, without reading its items. Reports damage.

Damage of one queue does not affect others. Rows that belong to no known queue stay in the file, and no new queue gets
their number.
"""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

from gateway.broker.storage import checksum, schema
from gateway.broker.storage.batch import SEQUENCE_BITS, Purge
from gateway.broker.storage.large.format import of_number

log = logging.getLogger(__name__)

LAST_NUMBER = 2**23 - 1
_MOST_LINES = 20
_FIRST_ID = "SELECT id FROM items WHERE id > ? ORDER BY id LIMIT 1"
_BEFORE_EVERY_ID = -(2**63)


@dataclass(frozen=True, slots=True)
class StoredQueue:
    """A queue as stored in the file. `last_id` is its highest row, or one below its range.

    Rows up to `unchecked` may have no checksum.
    """

    number: int
    name: bytes
    items: int
    bytes: int
    ever: int
    last_id: int
    unchecked: int = 0


@dataclass(frozen=True, slots=True)
class Inventory:
    """The queues; the deletions in progress; the numbers that no new queue may get; the parts that no item needs."""

    queues: list[StoredQueue]
    dropped: list[Purge]
    reserved: set[int] = field(default_factory=set)
    unfinished: list[int] = field(default_factory=list)


def lowest_id(number: int) -> int:
    """Every id of the queue is above this, and at most `highest_id`."""
    return number << SEQUENCE_BITS


def highest_id(number: int) -> int:
    return (number << SEQUENCE_BITS) | ((1 << SEQUENCE_BITS) - 1)


def take(connection: sqlite3.Connection, path: Path) -> Inventory:
    """Raises sqlite3.Error if the table of queues cannot be read."""
    found: dict[bytes, StoredQueue] = {}
    dropped: list[Purge] = []
    reserved: set[int] = set()
    rows = connection.execute(
        "SELECT number, name, items, bytes, ever, unchecked, checksum FROM queues ORDER BY number"
    ).fetchall()
    for number, name, *counts, unchecked, stored in rows:
        if not is_sound(number, name, unchecked, stored):
            log.error(
                "%s: the row of queue number %d is damaged: its jobs are not delivered; %s", path, number, schema.CHECK
            )
            reserved.add(number)
            continue
        older = name if name is None else found.pop(name, None)
        if name is None:
            dropped.append(Purge(number, [(lowest_id(number), highest_id(number))], drop=True))
            continue
        if older is not None:  # its deletion had failed when the younger one was created
            dropped.append(Purge(older.number, [(lowest_id(older.number), highest_id(older.number))], drop=True))
        last_id = _last_id(connection, path, number, name)
        items, size, ever = _sound_counts(connection, path, number, name, counts)
        found[name] = StoredQueue(number, name, items, size, ever, last_id, unchecked)
    known = {queue.number for queue in found.values()} | {purge.number for purge in dropped} | reserved
    reserved |= _orphans(connection, path, known)
    return Inventory(list(found.values()), dropped, reserved, _unfinished(connection, path))


def unfinished_rows(connection: sqlite3.Connection) -> tuple[list[int], int]:
    """The numbers of large items that were being written or deleted when the broker ended, and how many rows of them
    are damaged. Raises sqlite3.Error."""
    if not schema.has_parts(connection):
        return [], 0
    rows = connection.execute("SELECT number, checksum FROM unfinished ORDER BY number").fetchall()
    sound = [number for number, stored in rows if stored == of_number(number)]
    return sound, len(rows) - len(sound)


def _unfinished(connection: sqlite3.Connection, path: Path) -> list[int]:
    try:
        numbers, damaged = unfinished_rows(connection)
    except sqlite3.Error as exc:
        if not schema.is_damage(exc):
            raise
        numbers, damaged = [], 1
    if damaged:
        log.error(
            "%s: some parts of removed items stay in the file, because the rows that refer to them are damaged; %s",
            path,
            schema.CHECK,
        )
    return numbers


def is_sound(number: int, name: bytes | None, unchecked: int, stored: int) -> bool:
    """Whether a row of `queues` is as it was written."""
    return (
        0 < number <= LAST_NUMBER
        and (name is None or type(name) is bytes)
        and type(unchecked) is int
        and checksum.of_queue(number, name, unchecked) == stored
    )


def _last_id(connection: sqlite3.Connection, path: Path, number: int, name: bytes) -> int:
    span = lowest_id(number), highest_id(number)
    try:
        row = connection.execute("SELECT max(id) FROM items WHERE id BETWEEN ? AND ?", span).fetchone()
    except sqlite3.Error as exc:
        if not schema.is_damage(exc):
            raise
        row = None
    else:
        if row[0] is None:
            return span[0]
    if row is not None and span[0] <= row[0] <= span[1]:  # a search in a damaged tree can give a row from outside
        return int(row[0])
    log.error("%s: the part of the file with the newest jobs of queue %r is damaged; %s", path, name, schema.CHECK)
    return span[0] + (1 << (SEQUENCE_BITS - 1))  # above every id that was used


def _sound_counts(
    connection: sqlite3.Connection, path: Path, number: int, name: bytes, counts: list[int]
) -> tuple[int, int, int]:
    """A queue's counters; zeros if they are impossible, until its items are read."""
    if all(type(count) is int and 0 <= count < 2**62 for count in counts):
        return counts[0], counts[1], counts[2]
    log.error("%s: the counters of queue %r are damaged; they are corrected when its jobs are read", path, name)
    connection.execute("UPDATE queues SET items = 0, bytes = 0, ever = 0 WHERE number = ?", (number,))
    return 0, 0, 0


def _orphans(connection: sqlite3.Connection, path: Path, known: set[int]) -> set[int]:
    """The numbers with items but without a queue. One seek per number."""
    found: set[int] = set()
    after = _BEFORE_EVERY_ID
    try:
        while (row := connection.execute(_FIRST_ID, (after,)).fetchone()) is not None:
            if row[0] <= after:
                log.error("%s: a part of the jobs cannot be read: its rows are out of order; %s", path, schema.CHECK)
                break
            number = row[0] >> SEQUENCE_BITS
            after = highest_id(number)
            if number not in known:
                found.add(number)
                if len(found) <= _MOST_LINES:
                    log.error(
                        "%s: there are jobs of queue number %d, but no such queue: they are not delivered", path, number
                    )
    except sqlite3.Error as exc:
        if not schema.is_damage(exc):
            raise
        log.error("%s: a part of the jobs cannot be read: %s; %s", path, exc, schema.CHECK)  # noqa: TRY400
    return found
