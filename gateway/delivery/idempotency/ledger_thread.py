"""Runs the transactions of the ledger's file, in one thread. Knows no entries.

1. Operations that arrive while a transaction is written share the next transaction. If it fails, each has its own.
2. The caller of an operation continues when its transaction is on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from gateway.common import wal
from gateway.delivery.idempotency.ledger_file import opened

T = TypeVar("T")

FileAction: TypeAlias = Callable[[sqlite3.Connection], Any]
"""Runs in the thread, inside a transaction."""


class LedgerThread:
    """The file and its thread, which the first operation starts. synced: whether a commit waits for the disk.

    last: called at the end of each transaction, before the commit.
    """

    def __init__(self, path: Path, *, synced: bool, last: FileAction) -> None:
        self._path = path
        self._synced = synced
        self._last = last
        self._thread: ThreadPoolExecutor | None = None
        self._file: sqlite3.Connection | None = None
        self._mark: wal.Mark | None = None
        self._lock = threading.Lock()
        self._pending: list[tuple[FileAction, asyncio.Future[Any]]] = []

    async def do(self, action: Callable[[sqlite3.Connection], T]) -> T:
        """The result of `action`, which is on disk. Raises what it raises. Cancelled: it may be carried out."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "ledger")
        with self._lock:
            first = not self._pending
            self._pending.append((action, done))
        if first:
            self._thread.submit(self._write, loop)
        return await done

    async def close(self) -> None:
        """Returns when everything that was started is on disk and the file is closed."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.to_thread(self._end, thread)

    # In the thread

    def _write(self, loop: asyncio.AbstractEventLoop) -> None:
        """One transaction for all pending operations; if one of them fails, one transaction each."""
        with self._lock:
            pending, self._pending = self._pending, []
        results: list[object]
        try:
            results = self._transaction([action for action, _ in pending])
        except Exception as exc:  # noqa: BLE001 (every waiting caller gets the error)
            busy = isinstance(exc, sqlite3.OperationalError) and exc.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            alone = len(pending) > 1 and self._file is not None and not busy
            results = [self._alone(action) if alone else Failure(exc) for action, _ in pending]
        loop.call_soon_threadsafe(_resolve, [done for _, done in pending], results)

    def _alone(self, action: FileAction) -> object:
        try:
            return self._transaction([action])[0]
        except Exception as exc:  # noqa: BLE001 (the waiting caller gets the error)
            return Failure(exc)

    def _transaction(self, actions: list[FileAction]) -> list[object]:
        file = self._file or self._open()
        file.execute("BEGIN IMMEDIATE")
        try:
            results = [action(file) for action in actions]
            self._last(file)
            file.execute("COMMIT")
        except BaseException:
            if file.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    file.execute("ROLLBACK")
            raise
        if self._mark is not None:
            self._mark.write()
        return results

    def _open(self) -> sqlite3.Connection:
        self._file = opened(self._path, synced=self._synced)
        with contextlib.suppress(OSError, ValueError):  # it only helps the next start to report losses
            self._mark = wal.Mark(self._path)
        return self._file

    def _end(self, thread: ThreadPoolExecutor) -> None:
        thread.shutdown()
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._mark is not None:
            self._mark.close()
            self._mark = None
            with contextlib.suppress(OSError):
                wal.forget(self._path)


@dataclass(frozen=True, slots=True)
class Failure:
    """The error of an operation, in the place of its result."""

    error: Exception


def _resolve(waiting: list[asyncio.Future[Any]], results: list[object]) -> None:
    for done, result in zip(waiting, results, strict=True):
        if done.done():
            continue  # the waiting caller was cancelled
        if isinstance(result, Failure):
            done.set_exception(result.error)
        else:
            done.set_result(result)
