"""`forward`: moves the items of a server's queues to another server or to a gateway, at least once.

1. Items are set aside, stored at the destination, and only then confirmed. Whatever is interrupted, the items that are
   set aside go back to the head of their queue. At most one batch is stored twice. So the command can be repeated.
2. A batch is stored in its order, and the items before one that cannot be stored are confirmed. The others are tried
   again while they are set aside. Before the command gives up, it puts them back in their order. If it is killed, the
   server puts them back in reverse order. Source: docs/kestrel-wire.md, "Reliable reads".
3. A queue is empty when it has neither items nor open reads, since open reads of other clients may come back.
4. A queue that the destination does not take is left out with its children, and the others are moved.
5. A job is never moved to the place that it is taken from: that would never end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.client import failures, interrupts
from gateway.client.failures import CallFailed
from gateway.common.counted import counted
from gateway.kestrel.address import Address
from gateway.migration.destination import Destination, MovedItem, StoreResult, envelope_expiry
from gateway.migration.kestrel_connection import KestrelConnection, KestrelFailed
from gateway.migration.queue_names import NewNames, is_control, is_internal, unreadable
from gateway.migration.same_server import is_mark, leads_to
from gateway.queue_stats import QueueStats

BATCH_ITEMS: Final = 100
"""What a server gives at a time at most: its open reads per connection. Source: docs/kestrel-wire.md."""
_BATCH_BYTES: Final = 8 << 20
_PASSES: Final = 10
"""So often the queues may have no fewer jobs than before: then they come as fast as they are moved."""
_LOOK_S: Final = 1.0
"""How often new queues are looked for, once all are empty: `--follow` is for operators, who watch it."""


class MoveStopped(Exception):
    """The move did not come to its end. retryable: the same command may succeed later. not_allowed: see StoreResult."""

    def __init__(self, what: str, *, retryable: bool, not_allowed: bool = False) -> None:
        super().__init__(what)
        self.retryable = retryable
        self.not_allowed = not_allowed


class UnknownQueues(Exception):
    """Options name queues that the source does not have. Nothing is moved."""


class _QueueRefused(Exception):
    """The destination does not take a queue. not_allowed: see StoreResult."""

    def __init__(self, queue: str, why: str, *, children: bool = True, not_allowed: bool = False) -> None:
        super().__init__(why)
        self.queue = queue
        self.children = children
        self.not_allowed = not_allowed


@dataclass(slots=True)
class MoveCounts:
    """What became of the items so far: by queue, how many are moved; and how many had expired.

    left_out: the queues that are not moved, or not to their end, and why. not_allowed: the key is why, for one or more.
    """

    moved: dict[str, int] = field(default_factory=dict)
    expired: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    not_allowed: bool = False

    @property
    def total(self) -> int:
        return sum(self.moved.values())


class QueueMove:
    """Moves the items of the chosen queues.

    retry_s: how long an unreachable server or gateway is tried again; None: no limit. notice: gets one line for each
    further attempt. reached: gets the counts after each batch, and how many items there were at the last look.
    """

    def __init__(
        self,
        source: Address,
        destination: Destination,
        names: NewNames,
        *,
        follow: bool,
        retry_s: float | None,
        notice: Callable[[str], None],
        reached: Callable[[int, int], None],
    ) -> None:
        self.counts = MoveCounts()
        self.open_reads: dict[str, int] = {}
        self._source = source
        self._destination = destination
        self._names = names
        self._follow = follow
        self._retry_s = retry_s
        self._notice = notice
        self._reached = reached
        self._failing_since_s: float | None = None
        self._failures = 0
        self._is_same_server: bool | None = None
        self._fewest: int | None = None
        self._passes = 0
        self._left_out_with_children: set[str] = set()

    def run(self) -> None:
        """Returns when the chosen queues have no item; with `follow`, never.

        open_reads: what other clients have set aside on them then, by queue. Raises MoveStopped, UnknownQueues.
        """
        while True:
            try:
                with KestrelConnection(self._source) as connection:
                    self._begin(connection)
                    while self._pass(connection) or self._follow:
                        pass
                    return
            except _QueueRefused as refused:
                self.counts.left_out[refused.queue] = str(refused)
                self.counts.not_allowed |= refused.not_allowed
                if refused.children:  # they would get copies when the queue is moved later
                    self._left_out_with_children.add(refused.queue)
            except KestrelFailed as failed:
                self._wait(str(failed), retryable=failed.retryable)
            except CallFailed as failed:
                if failed.not_allowed:
                    raise MoveStopped(str(failed), retryable=False, not_allowed=True) from failed
                self._wait(str(failed), retryable=failed.retryable)

    def _begin(self, connection: KestrelConnection) -> None:
        """Once: whether the options fit the source, and whether the destination is another server."""
        if self._is_same_server is not None:
            return
        if unused := self._names.unused(connection.queues()):
            what = f"{self._source} has no queue for {', '.join(unused)}"
            if not self._follow:
                raise UnknownQueues(what)
            self._notice(f"{what} yet")
        self._is_same_server = leads_to(self._source, self._destination)

    def _pass(self, connection: KestrelConnection) -> bool:
        """Moves what the queues have. Returns whether there was something."""
        queues = connection.queues()
        chosen = [each for each in self._names.chosen(queues) if not self._is_left_out(each)]
        waiting = sum(queues[each].items for each in chosen)
        self.open_reads = {each: queues[each].open_reads for each in chosen if queues[each].open_reads}
        self._reached(self.counts.total, self.counts.total + waiting)
        self._count_passes(waiting)
        for queue in chosen:
            if queues[queue].items:
                self._move(connection, queue, queues, self.counts.total + waiting)
        if not waiting:
            time.sleep(_LOOK_S if self._follow else 0)
        return waiting > 0

    def _count_passes(self, waiting: int) -> None:
        """Raises MoveStopped if the queues do not get empty."""
        if self._fewest is None or waiting < self._fewest:
            self._fewest, self._passes = waiting, 0
        self._passes += 1
        if waiting and not self._follow and self._passes > _PASSES:
            raise MoveStopped(
                f"{self._source} gets jobs as fast as they are moved; stop what enqueues them there, or give --follow",
                retryable=True,
            )

    def _move(self, connection: KestrelConnection, queue: str, queues: Mapping[str, QueueStats], total: int) -> None:
        """Moves the items of one queue until it has none."""
        new = self._names.new(queue)
        self._check(queue, new)
        average = queues[queue].bytes // queues[queue].items + 1
        most = max(1, min(BATCH_ITEMS, _BATCH_BYTES // average))
        left = queues[queue].items
        batch: list[MovedItem] = []
        try:
            while batch or left > 0:
                with interrupts.later():  # Ctrl-C ends the move after the items that are set aside, in order
                    if not batch:
                        taken = connection.take(queue, min(most, left))
                        batch = [MovedItem(each, envelope_expiry(each)) for each in taken]
                        left -= len(batch)
                    if not batch:
                        return
                    result = self._destination.store(new, batch)
                    if result.done:
                        connection.confirm(queue, result.done)
                        self._count(queue, result, total)
                        batch = batch[result.done :]
                if result.obstacle and not result.retryable:
                    raise _QueueRefused(queue, result.obstacle, not_allowed=result.not_allowed)
                if result.obstacle:
                    self._wait(f"{new}: {result.obstacle}", retryable=True)
        except (MoveStopped, _QueueRefused, KeyboardInterrupt):
            self._put_back(connection, queue, len(batch))
            raise

    def _put_back(self, connection: KestrelConnection, queue: str, count: int) -> None:
        """The items that were set aside are at the head of their queue again."""
        if not count:
            return
        try:
            with interrupts.later():
                connection.put_back(queue, count)
        except KestrelFailed as failed:
            self._notice(f"{failed}; up to {counted(count, 'job')} of {queue} may be in reverse order")

    def _check(self, queue: str, new: str) -> None:
        """Raises _QueueRefused if the items of the queue would not get to where they belong, MoveStopped if they came
        back."""
        if self._is_same_server and self._names.chosen([new]):
            raise MoveStopped(
                f"{self._destination.name} stores its jobs on {self._source}, so {queue} would be moved again and "
                "again; give the address of another server",
                retryable=False,
            )
        if is_internal(queue) and self._names.change:
            raise _QueueRefused(
                queue,
                "delayed jobs have the names of their queues in them, which --rename and --prefix do not change; move "
                "them without these options, or wait until they are due",
            )
        if "+" not in new and (children := self._destination.children(new)):
            raise _QueueRefused(
                queue,
                f"{self._destination.name} has children of {new}: {', '.join(children)}; each item would be copied to "
                "them, too. Let consumers take the jobs, or delete the children there",
                children=False,
            )
        is_first = queue not in self.counts.moved and not self._destination.is_gateway
        if is_first and (why := unreadable(new, self._names.prefix)):
            self._notice(why)

    def _is_left_out(self, queue: str) -> bool:
        if is_control(queue):
            return self._names.change or self._destination.is_gateway
        return (
            is_mark(queue) or queue in self.counts.left_out or queue.partition("+")[0] in self._left_out_with_children
        )

    def _count(self, queue: str, result: StoreResult, total: int) -> None:
        counts = self.counts
        counts.moved[queue] = counts.moved.get(queue, 0) + result.done - result.expired
        counts.expired += result.expired
        self._failing_since_s, self._failures = None, 0
        self._reached(counts.total, total)

    def _wait(self, what: str, *, retryable: bool) -> None:
        """Waits before the next attempt. Raises MoveStopped if there is none."""
        now_s = time.monotonic()
        self._failing_since_s = self._failing_since_s or now_s
        self._failures += 1
        pause_s = failures.pause_s(self._failures)
        if not retryable or (self._retry_s is not None and now_s + pause_s - self._failing_since_s > self._retry_s):
            raise MoveStopped(what, retryable=retryable)
        self._notice(f"{what}; next try in {pause_s:.1f} s")
        time.sleep(pause_s)
