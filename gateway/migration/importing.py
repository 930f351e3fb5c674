"""`import-journal`: puts what the journals of a Kestrel hold on queues of another server.

1. The journals are only read. The destination answers for each batch before the notes say that it is stored.
2. The notes are a file. After an interruption the same command continues there. At most one batch is stored twice: one
   that was stored before the command was killed, and not noted yet.
3. A queue is stored before its children, so that nothing is copied to them (see NewNames.chosen).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from gateway.client import interrupts
from gateway.common.net import reason
from gateway.migration.destination import Destination, MovedItem
from gateway.migration.journal_files import JournalDirectory, JournalFile
from gateway.migration.replay import JournalItem, ReplayedQueue

BATCH_ITEMS: Final = 500
_BATCH_BYTES: Final = 8 << 20


class ImportStopped(Exception):
    """The import did not come to its end. The notes say how far it is. retryable: the same command may succeed."""

    def __init__(self, what: str, *, retryable: bool) -> None:
        super().__init__(what)
        self.retryable = retryable


@dataclass(frozen=True, slots=True)
class ImportedQueue:
    """What became of the items of one queue. before: those that earlier runs of the same import have stored."""

    stored: int
    expired: int
    before: int


@dataclass(slots=True)
class ImportNotes:
    """How far an import is. done: the items of each queue that are stored or have expired. expired: only the latter.

    `open` reads them from a file.
    """

    path: Path
    source: dict[str, Any]
    done: dict[str, int] = field(default_factory=dict)
    expired: dict[str, int] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, source: dict[str, Any], *, from_start: bool) -> ImportNotes:
        """The notes of the import of these journals to this destination. Raises ImportStopped."""
        notes = cls(path, source)
        if from_start or not path.exists():
            return notes
        try:
            found = json.loads(path.read_text())
            before, done = found["source"], _counts(found["done"])
            notes.expired = _counts(found.get("expired", {}))  # version 0.1.0 did not note them
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
            raise ImportStopped(
                f"{path} cannot be read: {reason(exc)}; delete it, or give --from-start", retryable=False
            ) from exc
        if before != source:
            raise ImportStopped(
                f"{path} belongs to an import of other journals, or to another server; give --from-start, "
                "or another file by --notes",
                retryable=False,
            )
        notes.done = done
        return notes

    def note(self, queue: str, done: int, expired: int) -> None:
        """Says how far a queue is. Raises ImportStopped."""
        self.done[queue] = done
        self.expired[queue] = expired
        self.save()

    def save(self) -> None:
        """Replaces the file at once, on disk. Raises ImportStopped if that is not possible."""
        new = self.path.with_name(f"{self.path.name}.new")
        try:
            with new.open("w") as file:
                json.dump({"source": self.source, "done": self.done, "expired": self.expired}, file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)
        except OSError as exc:
            raise ImportStopped(
                f"{self.path} cannot be written: {exc.strerror}; the import records its progress there", retryable=False
            ) from exc


def _counts(found: dict[str, Any]) -> dict[str, int]:
    return {str(name): int(count) for name, count in found.items()}


def notes_path(directory: Path, data: Path | None, notes: Path | None) -> Path:
    """Where the import notes how far it is. Raises ValueError if that, or --data, cannot be."""
    journals = directory.resolve()
    path = (notes or journals.with_name(f"{journals.name}.progress")).absolute()
    if data is not None and data.resolve() == journals:
        raise ValueError(f"data: {data} is the directory of the journals; name another one")
    if path.resolve().parent == journals:
        raise ValueError(f"notes: {path} would be among the journals; name a file elsewhere")
    try:
        if not path.is_dir() and path.parent.is_dir():
            return path
        why = "its directory is missing, or it is a directory itself"
    except OSError as exc:
        why = str(exc.strerror)
    raise ValueError(f"notes: {path} cannot be a file: {why}")


def identity(directory: JournalDirectory, destination: str, names: dict[str, str]) -> dict[str, Any]:
    """What makes two runs the same import: the files with their sizes, the destination, and the new names."""
    files = {each.path.name: each.size for files in directory.queues.values() for each in files}
    return {"files": files, "to": destination, "names": names}


class QueueImport:
    """Stores replayed queues. reached: gets the number of items that are done, of all queues."""

    def __init__(self, destination: Destination, notes: ImportNotes, reached: Callable[[int], None]) -> None:
        self._destination = destination
        self._notes = notes
        self._reached = reached
        self._done = 0

    def store(self, queue: str, name: str, replayed: ReplayedQueue) -> ImportedQueue:
        """Stores the items of one queue that are not stored yet. Raises ImportStopped, OSError."""
        before = self._notes.done.get(queue, 0)
        expired_before = self._notes.expired.get(queue, 0)
        self._check_stored(name, replayed.items[:before])
        self._check_children(name, left=len(replayed.items) - before)
        done, expired = before, expired_before
        self._done += before
        for items in _batches(replayed, before):
            with interrupts.later():  # what is stored is noted, so Ctrl-C makes no job come twice
                result = self._destination.store(name, items)
                done, expired = done + result.done, expired + result.expired
                if result.done:
                    self._notes.note(queue, done, expired)
            self._done += result.done
            self._reached(self._done)
            if result.obstacle:
                raise ImportStopped(f"{name}: {result.obstacle}", retryable=result.retryable)
        stored_before = before - expired_before
        return ImportedQueue(done - expired - stored_before, expired - expired_before, stored_before)

    def _check_stored(self, name: str, items: Sequence[JournalItem]) -> None:
        """What the notes call stored has to be there: somebody may have emptied the destination."""
        if live(items) and not self._destination.has(name):
            raise ImportStopped(
                f"{self._destination.name} has no queue {name}, but {self._notes.path} says that {len(items)} of its "
                "jobs are stored; give --from-start to import them again, or leave the queue out with --queue",
                retryable=False,
            )

    def _check_children(self, name: str, *, left: int) -> None:
        children = self._destination.children(name) if left and "+" not in name else []
        if children:
            raise ImportStopped(
                f"{self._destination.name} has children of {name}: {', '.join(children)}; each item would be copied to "
                "them; delete them there, or give the queue a new name with --rename",
                retryable=False,
            )


def _batches(replayed: ReplayedQueue, start: int) -> Iterator[list[MovedItem]]:
    """The items from `start` on, with their bytes."""
    batch: list[MovedItem] = []
    size = 0
    files = _Files(replayed.files)
    try:
        for each in replayed.items[start:]:
            if batch and (len(batch) == BATCH_ITEMS or size + each.size > _BATCH_BYTES):
                yield batch
                batch, size = [], 0
            batch.append(MovedItem(files.read(each), each.expires_ms / 1000 if each.expires_ms else None))
            size += each.size
        if batch:
            yield batch
    finally:
        files.close()


class _Files:
    """The files of a queue, of which one at a time is open."""

    def __init__(self, files: Sequence[JournalFile]) -> None:
        self._files = files
        self._number = -1
        self._open: BinaryIO | None = None

    def read(self, item: JournalItem) -> bytes:
        if self._open is None or item.file != self._number:
            self.close()
            self._open = self._files[item.file].path.open("rb")
            self._number = item.file
        self._open.seek(item.at)
        data = self._open.read(item.size)
        if len(data) < item.size:
            raise ImportStopped(f"{self._files[item.file].path} is shorter than before", retryable=False)
        return data

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


def grown(directory: JournalDirectory) -> list[str]:
    """The files that have changed since the directory was read: a Kestrel writes to them. Raises OSError."""
    return [
        each.path.name
        for files in directory.queues.values()
        for each in files
        if not each.path.exists() or each.path.stat().st_size != each.size
    ]


def live(items: Sequence[JournalItem]) -> list[JournalItem]:
    """The items that have not expired."""
    now_ms = time.time() * 1000
    return [each for each in items if not 0 < each.expires_ms <= now_ms]
