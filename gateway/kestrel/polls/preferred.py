"""One poll of several queues: the item comes from the first of them that has one.

1. The queues are asked one after the other, and after HURRY_S all that are left at once, so that a silent server costs
   SILENT_S in total and not for each queue. If all are empty, the poll waits for items of all of them.
2. If a later queue then has an item, the earlier ones are asked again, all at once. The item stays set aside meanwhile.
   It is the result only if they have answered that they are empty.
3. A server that answers nothing at all for SILENT_S is not waited for (rule 4 of gateway.kestrel.polls.rules, with less
   patience).
4. Items that are not the result go to the next poll of their queue, or back to it in order.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from gateway.coverage import Coverage, least
from gateway.errors import BackendUnavailable, GatewayError
from gateway.kestrel.link import TakenItem
from gateway.kestrel.polls.runner import LongPoll, QueueRunner
from gateway.kestrel.polls.values import OPEN_PHASES, WaiterPhase

SILENT_S: Final = 0.1
"""The most that a job of a later queue is late because of a server that does not answer."""
HURRY_S: Final = 0.02
"""Servers that answer need about 1 ms for each queue. Those that are asked then have most of SILENT_S left."""


class Candidate(LongPoll):
    """The poll of one of the queues. Calls `changed` when it has an item, and when it has ended."""

    __slots__ = ("_changed",)

    def __init__(
        self, runner: QueueRunner, timeout_s: float, patience_s: float, order: int, changed: Callable[[], None]
    ) -> None:
        super().__init__(runner, timeout_s, patience_s, order)
        self._changed = changed
        self.awaited = True  # PreferredPoll is about to fetch the item, or cancels the poll

    @property
    def open(self) -> bool:
        """Whether it has no item and has not ended."""
        return self.phase in OPEN_PHASES and self.phase is not WaiterPhase.GIVEN

    def item_now(self) -> TakenItem | None:
        """Its item, if it has one."""
        return self.fetch() if self.phase is WaiterPhase.GIVEN else None

    def wake(self) -> None:
        self._changed()


Begin: TypeAlias = Callable[[str, float, float, Callable[[], None]], Candidate]
"""Begins a poll: key, timeout_s (0: it asks each server once), patience_s (how long it waits for silent servers),
changed (called when it has an item and when it has ended)."""


class PreferredPoll:
    """One waiting poll of several queues. `result` is awaited once. coverage: as that of a LongPoll."""

    def __init__(self, keys: Sequence[str], timeout_s: float, begin: Begin) -> None:
        self.coverage: Coverage | None = None
        self._keys = keys
        self._timeout_s = timeout_s
        self._begin = begin
        self._polls: list[Candidate] = []
        self._cancelled = False
        self._changed = asyncio.Event()

    async def result(self) -> TakenItem | None:
        """The item, whose `key` says from which queue it comes; None if no queue had one in time.

        Raises: as LongPoll.result, if no queue could be asked. Cancelled: items went to other polls or back.
        """
        until = asyncio.get_running_loop().time() + self._timeout_s
        try:
            item = await self._ask()
            left_s = until - asyncio.get_running_loop().time()
            if item is None and left_s > 0 and not self._cancelled:
                item = await self._wait(left_s)
            return item
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Ends the poll at once; then `result` returns None. Idempotent; does nothing once there is a result."""
        self._cancelled = True
        for poll in self._polls:
            poll.cancel()
        self._changed.set()

    async def _ask(self) -> TakenItem | None:
        """Asks each queue (rule 1)."""
        loop = asyncio.get_running_loop()
        hurry_at = loop.time() + HURRY_S
        asks: list[Candidate] = []
        for place, key in enumerate(self._keys):
            if place == len(asks):
                asks.append(self._start(key, 0.0))
            poll = asks[place]
            if not await self._ended_by(poll, hurry_at):
                asks += [self._start(each, 0.0, SILENT_S - HURRY_S) for each in self._keys[len(asks) :]]
                await self._ended(poll)
            if (item := poll.item_now()) is not None:
                return item
            if self._cancelled:
                return None
            if poll.error is not None and not (self._timeout_s and isinstance(poll.error, BackendUnavailable)):
                raise poll.error
            self.coverage = least(self.coverage, poll.coverage)
            self._polls.remove(poll)
        return None

    async def _wait(self, left_s: float) -> TakenItem | None:
        """Waits in the line of each queue (rules 1 and 2)."""
        lines = [self._start(key, left_s) for key in self._keys]
        while not self._cancelled:
            self._changed.clear()
            served = next((place for place, poll in enumerate(lines) if poll.phase is WaiterPhase.GIVEN), None)
            if served is not None:
                if (item := await self._first(lines, served)) is not None:
                    return item
            elif any(poll.open for poll in lines):
                await self._changed.wait()
            else:
                self._conclude(lines)
                return None
        return None

    async def _first(self, lines: Sequence[Candidate], served: int) -> TakenItem | None:
        """The item of the first queue that has one, of those up to the queue that is served (rule 2)."""
        asks = [self._start(key, 0.0) for key in self._keys[:served]]
        for poll, ask in zip(lines, asks, strict=False):
            await self._ended(ask)
            if self._cancelled:
                return None
            if (item := poll.item_now() or ask.item_now()) is not None:
                return item
        for ask in asks:
            self._polls.remove(ask)
        return lines[served].item_now()

    def _conclude(self, lines: Sequence[Candidate]) -> None:
        """No queue had an item. Raises the error if none could be asked."""
        errors: list[GatewayError] = [poll.error for poll in lines if poll.error is not None]
        if len(errors) == len(lines):
            raise errors[0]
        self.coverage = least(*(poll.coverage for poll in lines))

    def _start(self, key: str, timeout_s: float, patience_s: float = SILENT_S) -> Candidate:
        poll = self._begin(key, timeout_s, patience_s, self._changed.set)
        self._polls.append(poll)
        return poll

    async def _ended_by(self, poll: Candidate, at: float) -> bool:
        """Whether the poll has an item or has ended before that time of the loop."""
        if poll.open:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(at):
                    await self._ended(poll)
        return not poll.open

    async def _ended(self, poll: Candidate) -> None:
        """Returns when the poll has an item or has ended."""
        while poll.open:
            self._changed.clear()
            await self._changed.wait()
