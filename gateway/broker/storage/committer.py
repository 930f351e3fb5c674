"""Group commit: collects the changes of the loop, has them written, and settles the tickets. Runs only on the loop.

While batch n is written, batch n + 1 collects; everything that arrives in the meantime shares one transaction. One call
reports a commit to the loop. If there are large items to write or to delete (large/work.py), batches and their parts
alternate, so a batch waits for one part at most.

If the disk fails a put (full, read-only, I/O error) the committer is in trouble: it keeps the reason, refuses new puts
for `RETRY_S`, and then tries again. If no client writes, a probe at each sweep ends the trouble. Removals are always
tried. An item that alone could not be written is refused alone, and causes no trouble.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

from gateway.broker.storage.batch import Batch, ItemOwner, Purge, StoredItem, Ticket, Unchecked, reference_of
from gateway.broker.storage.batch_writer import Outcome
from gateway.broker.storage.large.work import LargeWork, LatePut, PartThreads
from gateway.broker.storage.reader import QueueRows, WindowOwner
from gateway.broker.storage.schema import PROBE
from gateway.common.histogram import Histogram
from gateway.common.limited_log import LimitedLog

log = logging.getLogger(__name__)

RETRY_S = 0.5
CONGESTED_BYTES = 64 << 20
COMMIT_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Bounds of the buckets: from a disk that does not sync to one that is overloaded."""


class DiskThreads(PartThreads, Protocol):
    """Does the blocking work in threads, and calls back on the loop."""

    def write(self, batch: Batch, done: Callable[[Batch, Outcome], None]) -> None: ...
    def read(self, owner: WindowOwner, rows: QueueRows, generation: int, after: int, upto: int) -> None: ...


class Committer:
    """The loop's side of the disk. times: of the batches' commits, as the loop sees them. large: what is written and
    deleted in parts."""

    def __init__(self, loop: asyncio.AbstractEventLoop, threads: DiskThreads, trouble: str | None = None) -> None:
        """`trouble`: why nothing can be put, if that is known at the start."""
        self.trouble: str | None = None
        self._loop = loop
        self._threads = threads
        self._retry_at = 0.0
        self.times = Histogram(COMMIT_S)
        self._batch = Batch()
        self._writing = False
        self._submitted_s = 0.0
        self._scheduled = False  # there is something in the batch
        self._woken = False  # `_next` will be called
        self._part_is_due = False
        self.large = LargeWork(threads, self)
        self._later: list[StoredItem] = []
        self._purges_later: list[Purge] = []
        self._unchecked_later: list[Unchecked] = []
        self._limited = LimitedLog()
        self._idle: asyncio.Event = asyncio.Event()
        self._idle.set()
        if trouble is not None:
            self._note(trouble)

    # Changes for the batch

    @property
    def refusal(self) -> str | None:
        """Why no put is accepted at the moment; None if one may be tried."""
        if self.trouble is not None and self._loop.time() < self._retry_at:
            return self.trouble
        return None

    @property
    def congested(self) -> Ticket | None:
        """The ticket to wait for before another item is added, if very many bytes wait to be written."""
        return self._batch.puts if self._batch.put_bytes > CONGESTED_BYTES else None

    def joined(self, put: LatePut) -> None:
        """The late put has given its items to the batch, and is settled with it."""
        self._touch()
        self._batch.late.append(put)

    def create(self, owner: ItemOwner, number: int, name: bytes) -> Ticket:
        self._touch()
        return self._batch.create(owner, number, name)

    def put(self, owner: ItemOwner, *items: StoredItem) -> Ticket:
        self._touch()
        return self._batch.put(owner, *items)

    def remove(self, owner: ItemOwner, item: StoredItem) -> Ticket:
        self._touch()
        return self._batch.remove(owner, item)

    def discard(self, item: StoredItem) -> None:
        self._touch()
        self._batch.discard(item)

    def move(self, source: ItemOwner, old: StoredItem, target: ItemOwner, new: StoredItem) -> None:
        self._touch()
        self._batch.move(source, old, target, new)

    def purge(self, purge: Purge) -> Ticket:
        self._touch()
        self._batch.purges.append(purge)
        return purge.ticket

    def add_checksums(self, rest: Unchecked) -> None:
        """Adds checksums to the items in slices, while others are served."""
        self._touch()
        self._batch.unchecked.append(rest)

    def recount(self, number: int) -> None:
        """Sets the queue's counters on disk to the numbers of its rows."""
        self._touch()
        self._batch.recounts.add(number)

    def set_meta(self, key: str, value: str) -> Ticket:
        self._touch()
        self._batch.meta[key] = value
        return self._batch.puts

    def read_ahead(self, owner: WindowOwner, rows: QueueRows, generation: int, after: int, upto: int) -> None:
        """Passes rows above `after` to `owner.loaded`, as many as fit a window."""
        self._threads.read(owner, rows, generation, after, upto)

    # When batches are written

    def _touch(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.wake()

    def wake(self) -> None:
        """There is something to write."""
        self._idle.clear()
        if not self._writing and not self._woken:
            self._woken = True
            self._loop.call_soon(self._next)

    def _next(self) -> None:
        """Gives the writer the next batch or part, if it has nothing to do."""
        self._woken = False
        if self._writing:
            return
        self._writing = True
        if self.large and (self._part_is_due or not self._scheduled) and self.large.write_next(self._part_written):
            self._part_is_due = False
        elif self._scheduled:
            self._part_is_due = True
            self._scheduled = False
            batch, self._batch = self._batch, Batch()
            self._submitted_s = time.perf_counter()
            self._threads.write(batch, self._committed)
        else:
            self._writing = False
            self._idle.set()

    # Results

    def _committed(self, batch: Batch, outcome: Outcome) -> None:
        self._writing = False
        self.times.observe(time.perf_counter() - self._submitted_s)
        self._batch.purges += outcome.unfinished
        self._batch.unchecked += outcome.unchecked
        self._scheduled |= bool(outcome.unfinished or outcome.unchecked)
        self.large.unused.extend(outcome.freed)
        self._next()
        if batch.has_puts or outcome.removals is not None:
            self._note(outcome.puts or outcome.removals)
        self._settle_puts(batch, outcome)
        self._settle_removals(batch, outcome)
        purged = (purge.ticket for purge in batch.purges if purge.ticket.done)
        for ticket in (batch.puts, *(put.ticket for put in batch.late), batch.removals, *purged):
            ticket.release()

    def _part_written(self, error: str | None) -> None:
        self._writing = False
        if error is not None:
            self._note(error)
        self._next()

    def _settle_puts(self, batch: Batch, outcome: Outcome) -> None:
        error, refused = outcome.puts, outcome.refused
        batch.puts.settle(error, refused)
        for put in batch.late:
            put.settle(error, refused)
        for id_, why in refused.items():
            log.error("an item is refused because it cannot be written (id %d): %s", id_, why)
        touched: dict[ItemOwner, None] = {}
        if error is None:
            for _, owner in batch.created.values():
                owner.created()
            self._tell_checked(batch, outcome)
        else:
            self._unchecked_later += batch.unchecked
        for owner, item in batch.placed:
            if error is None and item.id not in refused:
                owner.placed(item)
                touched[owner] = None
            else:
                owner.not_placed(item)
                if (reference := reference_of(item)) is not None:
                    self.large.delete(reference.number)
        for source, old, owner, item in batch.moved:
            if error is None and item.id not in refused:
                owner.placed(item)
                touched[owner] = None
            else:
                owner.not_placed(item)
                source.not_removed(old)
        for owner in touched:
            owner.serve()

    @staticmethod
    def _tell_checked(batch: Batch, outcome: Outcome) -> None:
        unchecked = {rest.number for rest in outcome.unchecked}
        for rest in batch.unchecked:
            if rest.number not in unchecked:
                log.info("every job of queue %r has a checksum now", rest.name)
                rest.owner.checked()

    def _settle_removals(self, batch: Batch, outcome: Outcome) -> None:
        error = outcome.removals
        batch.removals.settle(error)
        unfinished = {purge.ticket for purge in outcome.unfinished}
        if error is None:
            for purge in batch.purges:
                if purge.ticket not in unfinished and not purge.ticket.done:
                    purge.ticket.settle(None)
            return
        if (more := self._limited.count("removals")) is not None:
            log.error("%s; removals will be tried again%s", error, more)
        self._later += batch.chores
        for purge in batch.purges:
            if not purge.ticket.done:
                purge.ticket.settle(error)
        self._purges_later += batch.purges
        for owner, item in batch.removed:
            owner.not_removed(item)

    def _note(self, error: str | None) -> None:
        if error is not None:
            self._retry_at = self._loop.time() + RETRY_S
            if self.trouble is None:
                log.error("the broker is read-only: %s", error)
        elif self.trouble is not None:
            log.warning("the broker accepts writes again")
        self.trouble = error

    def sweep_chores(self) -> None:
        """Once a second: tries failed removals again, and probes a disk in trouble."""
        self.large.retry()
        for item in self._later:
            self.discard(item)
        self._later = []
        for purge in self._purges_later:
            self.purge(purge)
        self._purges_later = []
        for rest in self._unchecked_later:
            self.add_checksums(rest)
        self._unchecked_later = []
        if self.trouble is not None and self._loop.time() >= self._retry_at:
            self.set_meta(PROBE, "x" * 16384)

    async def idle(self) -> None:
        """Returns when everything is written."""
        while self._scheduled or self._writing or self.large:
            await self._idle.wait()
