"""Who waits for a queue's next item, in order of arrival.

Owns the waiters of one queue (`Line`) and of all (`Lines`). What brings the items is a Feeder a server; a line only
says whom an item serves. Opens no connection.

1. Waiters are served first come, first served; a lost item's waiter is first again.
2. A waiter that ended, by its deadline, `cancel` or a cancelled task, is out of the line at once. An item that it was
   given and has not fetched goes to the next waiter, or back to the head of its queue.
3. None means that a server was really asked: it answered that the queue is empty, or a get stood on it to the end.
4. A line is forgotten when nobody waits, every item that was given is fetched, and nothing is under way: a queue
   never has two lines.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from enum import Enum

from gateway.errors import BackendUnavailable, GatewayError
from gateway.kestrel.counters import Counters
from gateway.kestrel.feeder import Feeder
from gateway.kestrel.reads import OpenRead
from gateway.kestrel.server import Server


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
    """One parked poll. Made by `Lines.wait`; `result` is awaited once."""

    __slots__ = ("_error", "_future", "_line", "_read", "_stand", "_timer", "asks", "deadline", "joined_at", "once")

    def __init__(self, line: Line, now: float, timeout_s: float, patience_s: float) -> None:
        self._line = line
        self.joined_at = now
        self.once = timeout_s <= 0
        self.deadline = now + (patience_s if self.once else timeout_s)
        self.asks = 0
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

        Raises: BackendUnavailable when no server could be asked. Cancelled: he has left the line; an item that was
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
        read, self._read = self._read, None
        self._move(Stand.ENDED)
        self._error = error
        self._timer.cancel()
        if read is not None:
            self._line.serve(read)
        self._line.leave(self)
        self._wake()

    def _time_over(self) -> None:
        if self._stand is Stand.WAITING:
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


class Line:
    """The waiters of one queue, and its feeders."""

    __slots__ = (
        "_counters", "_forget", "_given", "_over", "_waiters", "feeders", "furthest", "key", "loop", "parked",
    )  # fmt: skip

    def __init__(
        self, key: str, servers: Sequence[Server], waits: int, counters: Counters, forget: Callable[[Line], None]
    ) -> None:
        self.key = key
        self.loop = asyncio.get_running_loop()
        self.furthest = 0.0
        self.parked = 0
        self._counters = counters
        self._forget = forget
        self._waiters: OrderedDict[Waiter, None] = OrderedDict()
        self._given: set[Waiter] = set()
        self._over: BackendUnavailable | None = None
        self.feeders = [Feeder(self, server, waits, counters) for server in servers]

    def __len__(self) -> int:
        return len(self._waiters)

    def join(self, waiter: Waiter) -> None:
        """Puts him last and has the servers asked at once."""
        self._waiters[waiter] = None
        self._ask_for(waiter)

    def rejoin(self, waiter: Waiter) -> None:
        """Puts him first: what he was given is lost."""
        self._given.discard(waiter)
        self._waiters[waiter] = None
        self._waiters.move_to_end(waiter, last=False)
        self._ask_for(waiter)

    def leave(self, waiter: Waiter) -> None:
        """He waits no more."""
        self._given.discard(waiter)
        if waiter in self._waiters:
            del self._waiters[waiter]
            self._one_less(waiter)
        self.tidy()

    def fetched(self, waiter: Waiter) -> None:
        """He has taken what he was given."""
        self._given.discard(waiter)
        self.tidy()

    def serve(self, read: OpenRead) -> None:
        """The item is the first waiter's; it goes back to the queue when nobody waits."""
        if self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            self._given.add(waiter)
            waiter.give(read)
            self._one_less(waiter)
        else:
            self._counters.given_back_unserved += 1
            read.hand_back()

    def _ask_for(self, waiter: Waiter) -> None:
        self.parked += not waiter.once
        if self._over is not None:
            waiter.end(self._over)
        elif waiter.once:
            waiter.asks = len(self.feeders)
            for feeder in self.feeders:
                feeder.ask(waiter)
        else:
            self.furthest = max(self.furthest, waiter.deadline)
            for feeder in self.feeders:
                feeder.joined()

    def _one_less(self, waiter: Waiter) -> None:
        self.parked -= not waiter.once
        if not self.parked:
            self.furthest = 0.0
        if not self._waiters:
            for feeder in self.feeders:
                feeder.rest()

    def unasked(self, waiter: Waiter) -> BackendUnavailable | None:
        """Why his wait proves nothing, or None when a server was really asked while he waited."""
        if any(feeder.asked_since(waiter.joined_at) for feeder in self.feeders):
            return None
        return self.feeders[0].trouble()

    def asked(self, waiter: Waiter, error: BackendUnavailable | None) -> None:
        """One server answered the question of a waiter who asks only once: nothing there, or `error`."""
        waiter.asks -= 1
        if not waiter.asks:
            waiter.end(self.unasked(waiter) if error is not None else None)

    def tidy(self) -> None:
        """Forgets the line when nobody needs it any more (rule 4)."""
        if not self._waiters and not self._given and not any(feeder.busy for feeder in self.feeders):
            self._forget(self)

    def close(self, error: BackendUnavailable) -> None:
        """Ends every wait with `error`, also those that are to come; items that nobody fetched go back."""
        self._over = error
        for waiter in [*self._waiters, *self._given]:
            waiter.end(error)


class Lines:
    """The lines of all queues that somebody waits for."""

    def __init__(self, servers: Sequence[Server], waits: int, patience_s: float, counters: Counters) -> None:
        self._servers = servers
        self._waits = waits
        self._patience_s = patience_s
        self._counters = counters
        self._lines: dict[str, Line] = {}
        self._over: BackendUnavailable | None = None

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def waiters(self) -> int:
        """How many wait, over all queues."""
        return sum(len(line) for line in self._lines.values())

    @property
    def standing(self) -> int:
        """How many gets are on servers, over all queues."""
        return sum(feeder.standing for line in self._lines.values() for feeder in line.feeders)

    def wait(self, key: str, timeout_s: float) -> Waiter:
        """Joins the line of `key`. `timeout_s` 0 asks each server once."""
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(key, self._servers, self._waits, self._counters, self._forget)
            if self._over is not None:
                line.close(self._over)
        waiter = Waiter(line, line.loop.time(), timeout_s, self._patience_s)
        line.join(waiter)
        return waiter

    def server_up(self, server: Server) -> None:
        """A server is back: its gets are armed again at once."""
        for line in list(self._lines.values()):
            for feeder in line.feeders:
                if feeder.server is server:
                    feeder.revive()

    def close(self, error: BackendUnavailable) -> None:
        """Ends every wait with `error`, also those that are to come."""
        self._over = error
        for line in list(self._lines.values()):
            line.close(error)

    def _forget(self, line: Line) -> None:
        if self._lines.get(line.key) is line:
            del self._lines[line.key]
