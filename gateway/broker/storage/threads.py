"""The two threads that block on the disk: one writes batches, one reads ahead. They make no decisions.

With a separate reader, reading ahead never waits for a commit, and a commit never for a long read.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeAlias

from gateway.broker.storage.batch import Batch
from gateway.broker.storage.batch_writer import Outcome
from gateway.broker.storage.database import Database
from gateway.broker.storage.large.data import LargeData
from gateway.broker.storage.large.parts import PartOutcome
from gateway.broker.storage.reader import (
    WINDOW_BYTES,
    WINDOW_ITEMS,
    DatabaseError,
    LargeRead,
    QueueRows,
    Window,
    WindowOwner,
)

log = logging.getLogger(__name__)

_Write: TypeAlias = tuple[Callable[[Any], object], Any, Callable[[str], object], Callable[[Any, Any], None]]
"""What writes, what it writes, what makes the result of an error, and what is called with the result."""
_Read: TypeAlias = tuple[WindowOwner, int, Callable[[], Window | LargeRead]]
"""Who gets the window, of which generation, and what reads it, or the next part of its only item."""


class Threads:
    """Owns the database from now on. Calls back on the loop with results. Raises DatabaseError."""

    def __init__(self, database: Database, loop: asyncio.AbstractEventLoop) -> None:
        self._database = database
        self._loop = loop
        self._reader = database.reader()
        self._writes: SimpleQueue[_Write | None] = SimpleQueue()
        self._reads: SimpleQueue[_Read | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._write_batches, name="broker-writer", daemon=True),
            threading.Thread(target=self._read_ahead, name="broker-reader", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def write(self, batch: Batch, done: Callable[[Batch, Outcome], None]) -> None:
        """Writes the batch after those before it, then calls `done`."""
        self._writes.put((self._database.write, batch, lambda error: Outcome(error, error), done))

    def write_part(self, large: LargeData, done: Callable[[LargeData, PartOutcome], None]) -> None:
        """Writes the next part of a large item, then calls `done`."""
        self._writes.put((self._database.write_part, large, PartOutcome, done))

    def delete_parts(self, number: int, done: Callable[[int, PartOutcome], None]) -> None:
        """Deletes some parts that belong to no item, then calls `done`."""
        self._writes.put((self._database.delete_parts, number, PartOutcome, done))

    def read(self, owner: WindowOwner, rows: QueueRows, generation: int, after: int, upto: int) -> None:
        """Passes a window of rows above `after` to `owner.loaded`, or an error to `owner.not_loaded`."""
        begin = partial(self._reader.begin, rows, after, upto, WINDOW_ITEMS, WINDOW_BYTES)
        self._reads.put((owner, generation, begin))

    def _write_batches(self) -> None:
        while (work := self._writes.get()) is not None:
            write, what, failed, done = work
            try:
                outcome = write(what)
            except Exception as exc:  # top of a thread: there must be a result
                log.exception("a commit failed")
                outcome = failed(f"cannot write: {exc}")
            if not self._call(done, what, outcome):
                return

    def _read_ahead(self) -> None:
        while (work := self._reads.get()) is not None:
            owner, generation, read = work
            try:
                window = read()
            except DatabaseError as exc:
                log.error("the next jobs of a queue cannot be read: %s", exc)  # noqa: TRY400 - one line is enough for a full disk
                called = self._call(owner.not_loaded, str(exc))
            except Exception as exc:  # top of a thread: there must be a result
                log.exception("reading the next jobs of a queue failed")
                called = self._call(owner.not_loaded, str(exc))
            else:
                if isinstance(window, LargeRead):  # other queues read between its parts
                    self._reads.put((owner, generation, window.step))
                    continue
                called = self._call(owner.loaded, generation, window)
            if not called:
                return

    def _call(self, function: Callable[..., None], *args: object) -> bool:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop is closed, so no one needs the result
            return False
        return True

    async def close(self) -> None:
        """Ends both threads after their pending work, and closes the database."""
        self._writes.put(None)
        self._reads.put(None)
        await self._loop.run_in_executor(None, self._end)

    def _end(self) -> None:
        for thread in self._threads:
            thread.join()
        self._reader.close()
        self._database.close()
