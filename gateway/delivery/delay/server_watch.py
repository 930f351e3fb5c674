"""When the holding queues of one server are looked at, and when their jobs move onward.

1. The head of a holding queue is peeked at, and nothing is held open while it waits. An item is opened when it may
   leave.
2. An empty queue is looked at again after the time that a job waits there: before that, none can be ready. The queues
   below FOREIGN_S are looked at only that often: the worker that puts a job on one of them looks in time, and a job
   whose worker ended is late by at most FOREIGN_S.
3. A worker takes its own jobs when they may leave, others' BACKUP_S later, so that workers do not compete for an item.
4. If a queue has fallen behind, AT_ONCE items are moved at a time, otherwise one after the other.
5. A head that may leave in more than twice the time that a job waits there, plus SKEW_S, was written by another clock,
   or before a clock was set back. It is moved onward at once, so that it does not hold up the others. No wait is longer
   than RECHECK_S, so a clock that was set forward is noticed.
6. A server that accepts no writes while another one does: everything on its holding queues is moved to the other one.
7. A server that dropped items of a holding queue has a limit there (its maxAge or maxItems, a ring). This is an error
   in the log and a figure.

A level is also the number of the queue of a single delay (gateway.delivery.delay.own_delays). Every worker watches
every server.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from typing import Final

from gateway.common.counted import counted
from gateway.delivery.backend import BackendMember
from gateway.delivery.delay.held_job import unpacked
from gateway.delivery.delay.held_job_mover import HeldJobMover
from gateway.delivery.delay.holding import HoldingQueues
from gateway.errors import GatewayError
from gateway.names.namespace import INTERNAL
from gateway.queue_stats import QueueStats

log = logging.getLogger(__name__)

FOREIGN_S: Final = 1.0
RECHECK_S: Final = 16.0
BACKUP_S: Final = 0.05
PAUSE_S: Final = 1.0
"""The pause after a server did not answer."""
AT_ONCE: Final = 16
BEHIND_S: Final = 0.05
SKEW_S: Final = 0.25
"""Rule 5 allows for this difference of two clocks."""
EMPTY_S: Final = 60.0
"""An empty queue is looked at at least this often, whatever its level."""


class ServerWatch:
    """Watches the holding queues of one server. others_write: whether another server accepts writes (rule 6).

    dropped: how many items the server has dropped from holding queues by itself.
    """

    def __init__(
        self, server: BackendMember, holding: HoldingQueues, mover: HeldJobMover, others_write: Callable[[], bool]
    ) -> None:
        self.dropped = 0
        self._clock = holding.clock
        self._server = server
        self._holding = holding
        self._mover = mover
        self._others_write = others_write
        self._at_s = [-math.inf] * len(holding.keys)  # monotonic
        self._used: set[int] = set()  # levels that had an item at the last look
        self._busy: set[int] = set()  # levels with moves in progress
        self._losses: dict[str, int] = {}
        self._closed = False
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Returns after `close`, when the moves in progress have ended. Cancelled: they are interrupted."""
        async with asyncio.TaskGroup() as tasks:
            while not self._closed:
                self._changed.clear()
                await self._look(tasks)
                waiting = (at_s for level, at_s in enumerate(self._at_s) if level not in self._busy)
                await self._until(min(waiting, default=math.inf))

    def close(self) -> None:
        """Begins no further move."""
        self._closed = True
        self._changed.set()

    def look_at(self, level: int, at_s: float) -> None:
        """A job of this worker may leave the level at `at_s`, if it is on this server."""
        self._grow()
        if at_s < self._at_s[level]:
            self._at_s[level] = at_s
            self._changed.set()

    def _grow(self) -> None:
        """Watches queues of single delays that were added."""
        self._at_s += [-math.inf] * (len(self._holding.keys) - len(self._at_s))

    async def _until(self, at_s: float) -> None:
        """Returns at `at_s`, or earlier if something has changed."""
        await self._clock.wait(self._changed, min(at_s - self._clock.monotonic_s(), EMPTY_S))

    async def _look(self, tasks: asyncio.TaskGroup) -> None:
        """Looks at every queue whose time has come, and starts moving jobs that may leave."""
        self._grow()
        now_s = self._clock.monotonic_s()
        leaving = not self._server.writes and self._others_write()
        levels = [
            level for level, at_s in enumerate(self._at_s) if level not in self._busy and (leaving or at_s <= now_s)
        ]
        if not levels:
            return
        if not self._server.reads:
            self._put_off(levels, PAUSE_S)
            return
        for level in levels:
            self._at_s[level] = math.inf  # `look_at` sets an earlier time meanwhile
        used = {level for level in levels if level in self._used}
        unused = [level for level in levels if level not in used]
        try:
            used |= await self._with_items(unused) if unused else set()
        except GatewayError as exc:
            log.debug("holding queues of %s: %s", self._server.name, exc)
            self._put_off(unused, PAUSE_S)
        except Exception:
            log.exception("reading the statistics of holding queues failed")
            self._put_off(unused, PAUSE_S)
        for level in used:
            self._busy.add(level)
            tasks.create_task(self._attend(level, leaving=leaving))

    async def _with_items(self, levels: Sequence[int]) -> set[int]:
        """Those of the levels that have items. The others get their next look (rule 2). Raises BackendUnavailable."""
        asked_s = self._clock.monotonic_s()
        found = await self._server.figures([self._holding.keys[level] for level in levels])
        for key, stats in found.items():
            self._count_losses(key, stats)
        with_items = set()
        for level in levels:
            on_level = found.get(self._holding.keys[level])
            if on_level is not None and on_level.items:
                with_items.add(level)
            else:
                self._empty(level, asked_s)
        return with_items

    def _empty(self, level: int, asked_s: float) -> None:
        self._used.discard(level)
        at_s = asked_s + min(max(FOREIGN_S, self._holding.waits_s[level]), EMPTY_S)
        self._at_s[level] = min(self._at_s[level], at_s)

    async def _attend(self, level: int, *, leaving: bool) -> None:
        """Moves the jobs of the level that may leave, and sets the time of the next look."""
        try:
            await self._move_due(level, leaving=leaving)
        except GatewayError as exc:
            log.debug("holding queue %s of %s: %s", self._holding.keys[level], self._server.name, exc)
            self._put_off([level], PAUSE_S)
        except Exception:
            log.exception("moving delayed jobs failed")
            self._put_off([level], PAUSE_S)
        finally:
            self._busy.discard(level)
            self._changed.set()

    async def _move_due(self, level: int, *, leaving: bool) -> None:
        key = self._holding.keys[level]
        while not self._closed:
            asked_s = self._clock.monotonic_s()
            self._at_s[level] = math.inf
            head = await self._server.peek(key)
            if head is None:
                self._empty(level, asked_s)
                return
            self._used.add(level)
            left_s = -math.inf if leaving else self._left_s(level, head)
            if left_s > 0:
                self._at_s[level] = min(self._at_s[level], asked_s + min(left_s, RECHECK_S))
                return
            if left_s < -BEHIND_S:
                await self._move_many(key, leaving=leaving)
            else:
                await self._move_one(key)

    def _left_s(self, level: int, head: bytes) -> float:
        """How long the head stays; not positive: it may leave now."""
        job = unpacked(head)
        if job is None:
            return 0.0
        left_s = job.until_ms / 1000 - self._clock.wall_s()
        if left_s > 2 * self._holding.waits_s[level] + SKEW_S:
            return 0.0  # rule 5
        if job.by != self._holding.worker:
            return left_s + BACKUP_S
        return left_s

    async def _move_one(self, key: str) -> float | None:
        """Moves the item at the head; see HeldJobMover.move. None: there was none. Raises BackendUnavailable,
        TooManyLeases, QueueFull, JobTooLarge, OutcomeUnknown."""
        read = await self._server.take(key)
        return None if read is None else await self._mover.move(read)

    async def _move_many(self, key: str, *, leaving: bool) -> None:
        """Moves items while they have fallen behind, AT_ONCE at a time. Raises the first failure, after all of them
        have ended."""
        outcomes = await asyncio.gather(
            *(self._move_some(key, leaving=leaving) for _ in range(AT_ONCE)), return_exceptions=True
        )
        for each in outcomes:
            if isinstance(each, BaseException):
                raise each

    async def _move_some(self, key: str, *, leaving: bool) -> None:
        while not self._closed:
            overdue_s = await self._move_one(key)
            if overdue_s is None or (overdue_s < BEHIND_S and not leaving):
                return

    def _put_off(self, levels: Sequence[int], pause_s: float) -> None:
        for level in levels:
            self._at_s[level] = self._clock.monotonic_s() + pause_s

    def _count_losses(self, key: str, stats: QueueStats) -> None:
        """Rule 7. The first answer is counted, too: the items may have been dropped while this worker did not run."""
        lost = stats.expired_items + stats.discarded
        if lost > self._losses.get(key, 0):
            log.error(
                "%s has dropped %s from %s because of a limit in its configuration (maxAge, or maxItems with "
                "discardOldWhenFull); remove that limit for all queues whose names contain %s",
                self._server.name, counted(lost, "delayed job"), key, INTERNAL,
            )  # fmt: skip
            self._losses[key] = lost
            self.dropped = sum(self._losses.values())
