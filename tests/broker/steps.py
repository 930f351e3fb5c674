"""Threads that work on demand: the real committer, queues and database, with interleavings chosen by the test."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

from gateway.broker.config import Config
from gateway.broker.queues.collection import QueueCollection
from gateway.broker.storage.batch import Batch
from gateway.broker.storage.batch_writer import Outcome
from gateway.broker.storage.committer import Committer
from gateway.broker.storage.database import Database
from gateway.broker.storage.large.data import LargeData
from gateway.broker.storage.large.parts import PartOutcome
from gateway.broker.storage.reader import QueueRows, WindowOwner


class Steps:
    """A broker's storage whose writes and reads happen when `commit`, `fail` or `read` is called."""

    def __init__(self, directory: Path, config: Config | None = None, window: int = 4) -> None:
        self.loop = asyncio.new_event_loop()
        self.directory = directory
        self.config = config or Config()
        self.window = window
        self.open()

    def open(self) -> None:
        self.database = Database(self.directory, fsync=False)
        self.reader = self.database.reader()
        self.writes: list[tuple[Batch, Callable[[Batch, Outcome], None]]] = []
        self.parts: list[tuple[Callable[[], PartOutcome], Callable[[PartOutcome], None]]] = []
        self.reads: list[tuple[WindowOwner, QueueRows, int, int, int]] = []
        self.committer = Committer(self.loop, self)
        self.queues = QueueCollection(self.committer, self.config, self.database.inventory())

    def crash(self) -> None:
        """Everything in memory is gone, also what was not committed."""
        self.reader.close()
        self.database.close()
        self.turn()
        self.open()

    def close(self) -> None:
        self.reader.close()
        self.database.close()
        self.loop.close()

    def turn(self) -> None:
        """One turn of the loop: what was collected is handed to the writer."""
        self.loop.call_soon(self.loop.stop)  # costs a fifth of a task that runs for a turn
        self.loop.run_forever()

    # The hands

    def write(self, batch: Batch, done: Callable[[Batch, Outcome], None]) -> None:
        self.writes.append((batch, done))

    def write_part(self, large: LargeData, done: Callable[[LargeData, PartOutcome], None]) -> None:
        self.parts.append((lambda: self.database.write_part(large), partial(done, large)))

    def delete_parts(self, number: int, done: Callable[[int, PartOutcome], None]) -> None:
        self.parts.append((lambda: self.database.delete_parts(number), partial(done, number)))

    def read(self, owner: WindowOwner, rows: QueueRows, generation: int, after: int, upto: int) -> None:
        self.reads.append((owner, rows, generation, after, upto))

    # What the test does with them

    def commit(self) -> bool:
        """Writes the batch or the part that is due; whether there was one."""
        self.turn()
        if self.parts:
            write, done_part = self.parts.pop(0)
            done_part(write())
            return True
        if not self.writes:
            return False
        batch, done = self.writes.pop(0)
        done(batch, self.database.write(batch))
        return True

    def commit_all(self) -> None:
        while self.commit():
            pass

    def fail(self, *, removals_too: bool) -> bool:
        """The batch or part that is due does not get through: its puts, or all of it."""
        self.turn()
        if self.parts:
            self.parts.pop(0)[1](PartOutcome("disk full"))
            return True
        if not self.writes:
            return False
        batch, done = self.writes.pop(0)
        if removals_too or not batch.has_removals:
            done(batch, Outcome("disk full", "disk full" if batch.has_removals else None))
        else:
            done(batch, dataclasses.replace(self.database.writer.write(batch, puts=False), puts="disk full"))
        return True

    def bring(self) -> bool:
        """Brings what was asked to be read ahead; whether there was something."""
        if not self.reads:
            return False
        owner, rows, generation, after, upto = self.reads.pop(0)
        owner.loaded(generation, self.reader.read(rows, after, upto, self.window, 1 << 20))
        return True
