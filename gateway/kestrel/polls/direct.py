"""A poll that takes an item at once, if no other poll waits for the queue and its only server is the embedded broker.

If there is no item, or the broker does not answer, it becomes an ordinary poll.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.coverage import Coverage
from gateway.errors import Unavailable
from gateway.kestrel.link import ServerLink, TakenItem
from gateway.kestrel.polls.rules import PROOF_S
from gateway.kestrel.polls.runner import LongPoll


class DirectPoll:
    """One poll. Implements gateway.delivery.backend.Poll.

    line_up: starts an ordinary poll in the place of this one, with what is left of the timeout in seconds.
    """

    __slots__ = (
        "_deadline", "_end_take", "_future", "_item", "_later", "_line_up", "_loop", "_timed", "_timer", "_took",
        "coverage",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_s: float, line_up: Callable[[float], LongPoll]) -> None:
        self.coverage: Coverage | None = None
        self._loop = loop
        self._deadline = loop.time() + timeout_s
        self._line_up = line_up
        self._end_take: Callable[[], None] | None = None  # None: the take is over
        self._item: TakenItem | None = None
        self._timed = True  # whether an item waits for `result` only until the deadline
        self._took = True  # whether `result` has something to return: an item, or the proof that there is none
        self._later: LongPoll | None = None
        self._future: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, server: ServerLink, key: str, tenant: str, after: object | None) -> bool:
        """Takes an item, if the server can be asked. after: see ServerLink.start_take; if its confirm fails, the caller
        cancels the poll. The item waits as long as the caller waits for the confirm, which has a deadline of its own.
        """
        self._timed = after is None
        self._end_take = server.start_take(key, tenant, self._taken, after)
        return self._end_take is not None

    def _taken(self, item: TakenItem | None, error: Unavailable | None) -> None:
        self._end_take = None
        self._item = item
        self._took = error is None
        if self._future is not None:
            if not self._future.done():
                self._future.set_result(None)
        elif item is not None and self._timed:
            self._timer = self._loop.call_at(max(self._deadline, self._loop.time() + PROOF_S), self.cancel)

    async def result(self) -> TakenItem | None:
        """The next item, or None if the wait ended. Raises what LongPoll.result raises. Cancelled: the item is back."""
        if self._end_take is not None:
            self._future = self._loop.create_future()
            try:
                await self._future
            except asyncio.CancelledError:
                self.cancel()
                raise
        item, self._item = self._item, None
        if self._timer is not None:
            self._timer.cancel()
        left_s = self._deadline - self._loop.time()
        if item is not None and (left_s <= 0 or not item.lost):
            return item
        if self._took and item is None and left_s <= 0:
            return None
        self._later = self._line_up(max(0.0, left_s))
        try:
            return await self._later.result()
        finally:
            self.coverage = self._later.coverage

    def cancel(self) -> None:
        """Ends the poll at once; then `result` returns None. Does nothing once the item was fetched."""
        if self._later is not None:
            self._later.cancel()
            return
        self._deadline = 0.0
        self._took = True
        item, self._item = self._item, None
        if item is not None:
            item.give_back()
        end_take, self._end_take = self._end_take, None
        if end_take is not None:
            end_take()
            if self._future is not None and not self._future.done():
                self._future.set_result(None)
