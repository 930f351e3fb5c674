"""Writes and deletes the parts of large items, a few in each transaction. Uses the writer's connection."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gateway.broker.storage import schema
from gateway.broker.storage.large.data import LargeData
from gateway.broker.storage.large.format import LAST_NUMBER, PLACE_BITS, last_part_id, of_number, part_id
from gateway.broker.storage.transaction import transaction
from gateway.common import wal

log = logging.getLogger(__name__)

DELETED_AT_ONCE = 2
"""Parts in one transaction: they take as long as writing one."""
_SOME = "SELECT id FROM parts WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"


@dataclass(frozen=True, slots=True)
class PartOutcome:
    """The result of writing or deleting a part: why it failed. alone: only this item cannot be written. finished: no
    part of the number is left."""

    error: str | None = None
    alone: bool = False
    finished: bool = False


class Parts:
    """The tables `parts` and `unfinished`. `exist`: whether the file has them, that is, format 3."""

    def __init__(self, connection: sqlite3.Connection, path: Path, mark: wal.Mark) -> None:
        """Raises sqlite3.Error."""
        self._connection = connection
        self._path = path
        self._mark = mark
        self._last_number = 0  # 0: not looked up yet
        self.exist = schema.has_parts(connection)

    def write(self, large: LargeData) -> None:
        """Writes the next part. Raises what SQLite raises, OverflowError or MemoryError; nothing is written then."""
        connection, part = self._connection, large.part()
        number = large.number or self._new_number()
        with transaction(connection):
            if not self.exist:
                schema.add_parts(connection)
            if not large.number:
                self.release((number,))
            connection.execute("INSERT INTO parts VALUES (?, ?)", (part_id(number, large.place), part))
        self._mark.write()
        if not self.exist:
            self.exist = True
            log.info("%s: has format 3 now, because it holds a large item", self._path)
        large.wrote(number, part)

    def _new_number(self) -> int:
        """A number without parts. Numbers grow, so a damaged reference does not lead to the parts of a newer item."""
        if not self._last_number and self.exist:
            self._last_number = self._highest_number()
        if self._last_number >= LAST_NUMBER:
            raise OverflowError("no number is left for another large item")
        self._last_number += 1
        return self._last_number

    def _highest_number(self) -> int:
        try:
            found = self._connection.execute("SELECT max(id) FROM parts WHERE id <= ?", (last_part_id(LAST_NUMBER),))
            unfinished = self._connection.execute("SELECT max(number) FROM unfinished").fetchone()[0]
            return max((found.fetchone()[0] or 0) >> PLACE_BITS, unfinished or 0)
        except sqlite3.Error as exc:
            if not schema.is_damage(exc):
                raise
            log.error("%s: the parts of large items are damaged; %s", self._path, schema.CHECK)  # noqa: TRY400
            return LAST_NUMBER // 2  # above every number that was used

    def release(self, numbers: Iterable[int]) -> None:
        """Part of a transaction: the parts of these numbers belong to no item."""
        rows = [(number, of_number(number)) for number in numbers]
        self._connection.executemany("INSERT OR REPLACE INTO unfinished VALUES (?, ?)", rows)

    def keep(self, numbers: Iterable[int]) -> None:
        """Part of a transaction: the parts of these numbers belong to an item from now on."""
        self._connection.executemany("DELETE FROM unfinished WHERE number = ?", [(number,) for number in numbers])

    def delete(self, number: int) -> bool:
        """Deletes some parts that belong to no item; returns whether none is left. Raises what SQLite raises."""
        connection = self._connection
        if not (self.exist and self._is_unfinished(number)):
            return True
        with transaction(connection):
            span = part_id(number, 0), last_part_id(number), DELETED_AT_ONCE
            deleted = connection.execute(f"DELETE FROM parts WHERE id IN ({_SOME})", span).rowcount
            if deleted < DELETED_AT_ONCE:
                self.keep((number,))  # nothing
        self._mark.write()
        return deleted < DELETED_AT_ONCE

    def _is_unfinished(self, number: int) -> bool:
        found = self._connection.execute("SELECT 1 FROM unfinished WHERE number = ?", (number,)).fetchone()
        return found is not None

    def forget(self) -> None:
        """At the end of the broker: without parts the file has format 2 again, which older versions can use."""
        if not self.exist:
            return
        with contextlib.suppress(sqlite3.Error):  # there is another end
            if schema.remove_parts(self._connection):
                self.exist = False
