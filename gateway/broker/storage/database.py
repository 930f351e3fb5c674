"""The broker's data directory: what happens when a batch cannot be written. Synchronous; knows no queues.

Layout: `items` holds every row of every queue under one integer key (queue number in the upper bits, position in the
lower). So a queue is one range of one B-tree, an ack is one delete by key, and reading ahead is one range scan.
`queues` holds a summary of each queue, which the same transactions update, so that a start reads no items. The name of
a deleted queue is NULL until its rows are gone. schema.py defines the tables.

Durability: WAL. With fsync each commit is synced (`synchronous=FULL`). Without it commits survive a killed process, but
not a power cut (`NORMAL`: the file stays consistent). opening.py opens the file, batch_writer.py writes a batch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sqlite3
from pathlib import Path

from gateway.broker.storage import inventory, opening, schema
from gateway.broker.storage.batch import Batch, Purge, Unchecked
from gateway.broker.storage.batch_writer import BatchWriter, Outcome
from gateway.broker.storage.inventory import Inventory
from gateway.broker.storage.large.data import LargeData
from gateway.broker.storage.large.parts import PartOutcome, Parts
from gateway.broker.storage.reader import DatabaseError, Reader, UnusableFileError
from gateway.broker.storage.reserve import BYTES as RESERVE_BYTES
from gateway.broker.storage.reserve import Reserve
from gateway.common import wal

log = logging.getLogger(__name__)

_ITEM_ERRORS = (
    OverflowError,
    MemoryError,
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)
"""Errors that a single row can cause, whatever the state of the disk. Damage at one place of the file counts as such,
too (`_is_of_one_row`)."""


class Database:
    """One data directory, locked for this process until `close`. One thread writes; another has its `reader()`."""

    def __init__(self, directory: Path, *, fsync: bool, lock_wait_s: float = 0.0) -> None:
        """Raises DatabaseError if the directory cannot be written, is in use, or holds another kind of file."""
        self.directory = directory
        self.path = directory / opening.FILE
        self.trouble: str | None = None  # why nothing can be put, as far as is known at the start
        self._reserve = Reserve(directory)
        self._lock = opening.lock(directory, lock_wait_s)
        try:
            self._connection, self._mark = self._open_with_room(fsync=fsync)
            self._parts = Parts(self._connection, self.path, self._mark)
            self.writer = BatchWriter(self._connection, self.path, self._mark, self._parts)
            self.trouble = self._take_reserve()
        except BaseException:
            os.close(self._lock)
            raise

    def _open_with_room(self, *, fsync: bool) -> tuple[sqlite3.Connection, wal.Mark]:
        """Opens the file. On a full disk even that needs space, which the reserve of the last run provides."""
        try:
            return opening.open_file(self.path, fsync=fsync)
        except DatabaseError as exc:
            if not self._is_disk_full():
                raise
            if not self._reserve.use():
                raise DatabaseError(f"{exc} (the disk is full)") from exc
            return opening.open_file(self.path, fsync=fsync)

    def _is_disk_full(self) -> bool:
        room = os.statvfs(self.directory)
        return room.f_bavail * room.f_frsize < RESERVE_BYTES

    def inventory(self) -> Inventory:
        """Every queue, without reading its items. Raises DatabaseError."""
        try:
            return inventory.take(self._connection, self.path)
        except sqlite3.Error as exc:
            kind = UnusableFileError if schema.is_lasting(exc) else DatabaseError
            raise kind(f"{self.path}: {schema.with_advice(exc)}") from exc

    def settings(self) -> dict[str, str]:
        """The stored settings; logs those that are damaged. Raises DatabaseError."""
        try:
            found, faults = schema.settings(self._connection)
        except sqlite3.Error as exc:
            raise DatabaseError(f"{self.path}: {schema.with_advice(exc)}") from exc
        for fault in faults:
            log.error("%s: %s", self.path, fault)
        return found

    def write(self, batch: Batch) -> Outcome:
        """Writes the whole batch in one transaction; if that fails, the part that can be written. No sqlite3.Error.

        If one row can be the cause, each change gets its own transaction, so that only the faulty ones fail. If the
        disk is the cause, the removals are tried alone.
        """
        batch.compute_checksums()
        puts = self._take_reserve() if batch.has_puts else None
        if puts is None:
            try:
                return self.writer.write(batch, puts=True)
            except (sqlite3.Error, OverflowError, MemoryError) as exc:
                if _is_of_one_row(exc):
                    return self._write_singly(batch)
                puts = f"cannot write: {exc}"
                self._give_reserve()
        if not batch.has_removals:
            return Outcome(puts, None)
        try:
            return dataclasses.replace(self.writer.write(batch, puts=False), puts=puts)
        except sqlite3.Error as exc:
            return Outcome(puts, f"cannot write: {exc}")

    def _write_singly(self, batch: Batch) -> Outcome:
        """Each change by itself. A removal that fails is logged and given up: its job may return."""
        refused: dict[int, str] = {}
        freed: list[int] = []
        unfinished: list[Purge] = []
        unchecked: list[Unchecked] = []
        for id_, piece in batch.pieces():
            try:
                found = self.writer.write(piece, puts=True)
            except (sqlite3.Error, OverflowError, MemoryError) as exc:
                if piece.created or piece.meta:
                    why = f"cannot write: {exc}"
                    return Outcome(why, why if batch.has_removals else None)
                if piece.rows or piece.moves:
                    refused[id_] = str(exc)
                else:
                    log.error("%s: %s: %s; %s", self.path, _what(id_, piece), exc, schema.CHECK)  # noqa: TRY400
            else:
                freed += found.freed
                unfinished += found.unfinished
                unchecked += found.unchecked
        return Outcome(None, None, tuple(unfinished), tuple(unchecked), refused, tuple(freed))

    def write_part(self, large: LargeData) -> PartOutcome:
        """Writes the next part of a large item. No sqlite3.Error."""
        error = self._take_reserve()
        if error is not None:
            return PartOutcome(error)
        try:
            self._parts.write(large)
        except (sqlite3.Error, OverflowError, MemoryError) as exc:
            alone = _is_of_one_row(exc)
            if not alone:
                self._give_reserve()
            return PartOutcome(f"cannot write: {exc}", alone=alone)
        return PartOutcome()

    def delete_parts(self, number: int) -> PartOutcome:
        """Deletes some parts of a large item that was removed or not stored. No sqlite3.Error."""
        try:
            return PartOutcome(finished=self._parts.delete(number))
        except sqlite3.Error as exc:
            return PartOutcome(f"cannot write: {exc}", alone=_is_of_one_row(exc))

    def _take_reserve(self) -> str | None:
        """Reserves space for the removals of a full disk; without it nothing is put. Returns None, or why it failed.

        Free space inside the file, left by removals, is sufficient, too.
        """
        if self._reserve.taken:
            return None
        why = self._reserve.take()
        return None if why is not None and self._free_bytes() >= 2 * RESERVE_BYTES else why

    def _free_bytes(self) -> int:
        try:
            pages = self._connection.execute("PRAGMA freelist_count").fetchone()[0]
            return int(pages) * int(self._connection.execute("PRAGMA page_size").fetchone()[0])
        except sqlite3.Error:
            return 0

    def _give_reserve(self) -> None:
        """Gives the space to the removals. A checkpoint lets the log start again at its beginning."""
        self._reserve.give()
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def reader(self) -> Reader:
        """A second connection, for another thread. Raises DatabaseError."""
        try:
            return Reader(opening.connect(self.path), self.path)
        except sqlite3.Error as exc:
            raise DatabaseError(f"{self.path}: {exc}") from exc

    def close(self) -> None:
        """Checkpoints the log into the file as far as possible, and unlocks the directory. The reserve stays for the
        next start, because the disk may be full then."""
        try:
            self._parts.forget()
            self._mark.clear()
            self._connection.close()
            self._mark.close()
            self._reserve.leave()
        finally:
            os.close(self._lock)


def _is_of_one_row(error: BaseException) -> bool:
    """Whether one row can be the cause, and not the disk."""
    return isinstance(error, _ITEM_ERRORS) or schema.is_damage(error)


def _what(id_: int, piece: Batch) -> str:
    """What a failed part of a batch was to do."""
    if piece.removed_ids:
        return f"job {id_} is settled but cannot be removed, and may be delivered again"
    for purge in piece.purges:
        return f"jobs of queue number {purge.number} cannot be removed"
    for rest in piece.unchecked:
        return f"jobs of queue {rest.name!r} stay without checksums"
    return "the counters of queues cannot be corrected"
