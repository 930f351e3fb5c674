"""One parked poll: where it stands, until when it waits, and what it was given.

Owns a wait's states and its deadline. Who is served next is its line's business (`Place`).

1. A waiter that ended, by its deadline, `cancel` or a cancelled task, is out of the line at once. An item that it was
   given and has not fetched goes to the next waiter, or back to the head of its queue.
2. None means that a server was really asked: it answered that the queue is empty, or a get stood on it to the end and
   it still answers. Where that is in doubt at the end, the wait lasts up to PROOF_S longer, until it has.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Any, Protocol

from gateway.errors import GatewayError, Unavailable
from gateway.kestrel.reads import OpenRead
from gateway.survey import Coverage

PROOF_S = 0.25


class Place(Protocol):
    """What a waiter needs of its line."""

    key: str
    loop: asyncio.AbstractEventLoop

    def rejoin(self, waiter: Any) -> None: ...
    def fetched(self, waiter: Any) -> None: ...
    def leave(self, waiter: Any) -> None: ...
    def pass_on(self, read: OpenRead) -> None: ...
    def gap(self, waiter: Any) -> Coverage | None: ...
    def unasked(self, waiter: Any) -> Unavailable | None: ...
    def doubts(self, waiter: Any) -> bool: ...


class Stand(Enum):
    """Where a waiter stands. GIVEN: an item is his, but he has not fetched it."""

    WAITING = "waiting"
    GIVEN = "given"
    SERVED = "served"
    ENDED = "ended"

    __hash__ = object.__hash__


MOVES: dict[Stand, frozenset[Stand]] = {
    Stand.WAITING: frozenset({Stand.GIVEN, Stand.ENDED}),
    Stand.GIVEN: frozenset({Stand.SERVED, Stand.ENDED, Stand.WAITING}),
    Stand.SERVED: frozenset(),
    Stand.ENDED: frozenset(),
}


class Waiter:
    """One parked poll. Made by `Lines.wait`; `result` is awaited once.

    coverage: where the wait ended empty and not every server was asked, how many were. asks, heard, later: the line's
    notes on one who asks once: answers that are to come, those that came, and feeders that are asked after the first.
    """

    __slots__ = (
        "_doubted", "_error", "_future", "_line", "_read", "_stand", "_timer", "asks", "coverage", "deadline", "heard",
        "joined_at", "later", "once",
    )  # fmt: skip

    def __init__(self, line: Place, now: float, timeout_s: float, patience_s: float) -> None:
        self._line = line
        self.joined_at = now
        self.once = timeout_s <= 0
        self.deadline = now + (patience_s if self.once else timeout_s)
        self.coverage: Coverage | None = None
        self.asks = 0
        self.heard = 0
        self.later: list[Any] = []
        self._doubted = False
        self._stand = Stand.WAITING
        self._read: OpenRead | None = None
        self._error: GatewayError | None = None
        self._future: asyncio.Future[None] | None = None
        self._timer = line.loop.call_at(self.deadline, self._time_over)

    def __repr__(self) -> str:
        return f"<Waiter for {self._line.key} {self._stand.value}>"

    @property
    def waiting(self) -> bool:
        """Whether he stands in the line."""
        return self._stand is Stand.WAITING

    async def result(self) -> OpenRead | None:
        """The next item, or None when the wait ended and the server was really asked.

        Raises: BackendUnavailable when no server could be asked, TooManyLeases when all that could be asked are full.
        Cancelled: he has left the line; an item that was
        his went to the next waiter or back to the queue.
        """
        while True:
            if self._stand is Stand.WAITING:
                self._future = self._line.loop.create_future()
                try:
                    await self._future
                except asyncio.CancelledError:
                    self.cancel()
                    raise
                finally:
                    self._future = None
            if self._stand is Stand.GIVEN:
                read, self._read = self._read, None
                assert read is not None
                if read.lost and self._line.loop.time() < self.deadline:
                    self._move(Stand.WAITING)
                    self._line.rejoin(self)
                    continue
                self._move(Stand.SERVED)
                self._timer.cancel()
                self._line.fetched(self)
                return read
            if self._error is not None:
                raise self._error
            return None

    def cancel(self) -> None:
        """Ends the wait at once; `result` then returns None. Idempotent; does nothing once the item was fetched."""
        self.end(None)

    def give(self, read: OpenRead) -> None:
        """The item is his. He has left the line already."""
        self._move(Stand.GIVEN)
        self._read = read
        self._wake()

    def end(self, error: GatewayError | None) -> None:
        """Ends the wait, with `error` for his `result` if there is one. Does nothing when it has ended."""
        if self._stand in (Stand.SERVED, Stand.ENDED):
            return
        if self._stand is Stand.WAITING and error is None:
            self.coverage = self._line.gap(self)
        read, self._read = self._read, None
        self._move(Stand.ENDED)
        self._error = error
        self._timer.cancel()
        if read is not None:
            self._line.pass_on(read)
        self._line.leave(self)
        self._wake()

    def hurry(self, within_s: float) -> None:
        """His deadline is at most so far away from now on."""
        deadline = self._line.loop.time() + within_s
        if deadline < self.deadline:
            self.deadline = deadline
            self._timer.cancel()
            self._timer = self._line.loop.call_at(deadline, self._time_over)

    def _time_over(self) -> None:
        if self._stand is Stand.WAITING:
            if not self._doubted and self._line.doubts(self):
                self._doubted = True
                self.deadline = self._line.loop.time() + PROOF_S
                self._timer = self._line.loop.call_at(self.deadline, self._time_over)
            else:
                self.end(self._line.unasked(self))
        elif self._future is None:
            self.end(None)  # nobody fetches it

    def _wake(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def _move(self, stand: Stand) -> None:
        if stand not in MOVES[self._stand]:
            raise RuntimeError(f"a waiter cannot go from {self._stand.value} to {stand.value}")
        self._stand = stand
