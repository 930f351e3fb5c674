"""Runs the polls of one queue: passes events to the state, and carries out its decisions.

Owns the timers, the gets in progress and the futures of the waiters. Makes no decision itself: see
gateway.kestrel.polls.decision.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

from gateway.coverage import Coverage
from gateway.errors import BackendUnavailable, GatewayError, Unavailable
from gateway.fairness.paced_calls import PacedCalls
from gateway.kestrel.counters import Counters
from gateway.kestrel.link import PendingGet, QueueLink, ServerLink, TakenItem
from gateway.kestrel.polls.decision import assign, try_join_takes
from gateway.kestrel.polls.state import QueuePolls
from gateway.kestrel.polls.values import (
    OPEN_PHASES,
    Abort,
    Close,
    End,
    EndReason,
    Get,
    Give,
    GiveBack,
    PollAction,
    Send,
    ServerQueue,
    Waiter,
    WaiterPhase,
)

LATE_S, READ_S = 0.005, 0.02
"""A timer that is this late runs before the answers that have arrived are read, so it waits READ_S for them."""


class LongPoll(Waiter):
    """One waiting poll. `result` is awaited once. coverage: set if it ended empty and not every server was asked."""

    __slots__ = ("_error", "_future", "_runner", "_timer", "coverage")

    def __init__(self, runner: QueueRunner, timeout_s: float, patience_s: float, order: int) -> None:
        now = runner.loop.time()
        super().__init__(now, now + max(0.0, timeout_s), patience_s, order)
        self.coverage: Coverage | None = None
        self._runner = runner
        self._error: GatewayError | None = None
        self._future: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<LongPoll of {self._runner.key} {self.phase.value}>"

    async def result(self) -> TakenItem | None:
        """The next item, or None if the wait ended and at least one server answered that there is none.

        Raises: BackendUnavailable if no server could be asked, TooManyLeases or TooManyWaiters if all that could be
        asked have no room. Cancelled: it has left the line; its item went to the next poll or back to the queue.
        """
        runner = self._runner
        while self.phase in OPEN_PHASES:
            if self.phase is not WaiterPhase.GIVEN:
                self._future = runner.loop.create_future()
                self.awaited = True
                try:
                    await self._future
                except asyncio.CancelledError:
                    self.cancel()
                    raise
                finally:
                    self._future = None
                    self.awaited = False
                continue
            item = self.fetch()
            if item is not None:
                return item
        if self._error is not None:
            raise self._error
        return None

    def fetch(self) -> TakenItem | None:
        """The item of a poll that has one. None if it was lost and there is time left: then the poll waits again."""
        item = cast(TakenItem, self.item)
        if item.lost and self._runner.loop.time() < self.deadline:
            self._runner.lost(self)
            return None
        if self._timer is not None:
            self._timer.cancel()
        self._runner.fetched(self)
        return item

    def cancel(self) -> None:
        """Ends the wait at once; then `result` returns None. Idempotent; does nothing once the item was fetched."""
        if self.phase in OPEN_PHASES:
            if self._timer is not None:
                self._timer.cancel()
            self._runner.left(self)
            self.wake()

    def time_from(self, at: float) -> None:
        """Sets the time at which the poll's deadline is over."""
        self._timer = self._runner.loop.call_at(at, self._runner.due, self)

    @property
    def timed(self) -> bool:
        """Whether the poll has a timer."""
        return self._timer is not None

    @property
    def error(self) -> GatewayError | None:
        """Why the poll has ended without an answer."""
        return self._error

    def end(self, error: GatewayError | None, coverage: Coverage | None) -> None:
        """Ends the poll with this result."""
        self._error = error
        self.coverage = coverage
        if self._timer is not None:
            self._timer.cancel()
        self.wake()

    def wake(self) -> None:
        """Resumes the caller that awaits the result."""
        if self._future is not None and not self._future.done():
            self._future.set_result(None)


class QueueRunner:
    """The polls of one queue. forget: called when it is not needed; starve: when some wait for room on a server.

    paced: very many waits and polls may end at one instant, so their ends wait there for their turn.
    """

    def __init__(
        self,
        key: str,
        tenant: str,
        servers: Sequence[ServerLink],
        counters: Counters,
        *,
        waits: int,
        patience_s: float,
        paced: PacedCalls,
        forget: Callable[[QueueRunner], None],
        starve: Callable[[QueueRunner], None],
    ) -> None:
        self.key = key
        self.tenant = tenant
        self.loop = asyncio.get_running_loop()
        self._counters = counters
        self._paced = paced
        self._forget = forget
        self._starve = starve
        self._links: dict[ServerLink, QueueLink] = {}
        self._state = QueuePolls(self._linked(servers), waits, patience_s)
        self._gets: dict[Get, PendingGet] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._running = self._again = False
        self._over: BackendUnavailable | None = None

    def __len__(self) -> int:
        return len(self._state.line)

    @property
    def open_waits(self) -> int:
        """How many waits are on servers."""
        return self._state.open_waits

    # Events

    def came(self, poll: LongPoll) -> None:
        """A poll begins."""
        if self._over is not None:
            poll.move(WaiterPhase.ENDED)
            poll.end(self._over, None)
            return
        state, now = self._state, poll.joined_at
        if poll.deadline > now:
            poll.time_from(poll.deadline)
        if self._running or not try_join_takes(state, poll, now):
            state.came(poll, now)
            self._run()
        elif state.next_at < self._timer_at:
            self._set_timer(state.next_at)

    def due(self, poll: LongPoll) -> None:
        """The poll's deadline is over."""
        self._paced.add(self.tenant, partial(self._timed_out, poll))

    def _timed_out(self, poll: LongPoll) -> None:
        if poll.phase in OPEN_PHASES:
            self._state.timed_out(poll, self.loop.time())
            self._run()

    def left(self, poll: LongPoll) -> None:
        """The poll was cancelled."""
        self._state.left(poll)
        self._run()

    def lost(self, poll: LongPoll) -> None:
        """The poll's item was lost before it was fetched."""
        self._state.lost(poll, self.loop.time())
        self._run()

    def fetched(self, poll: LongPoll) -> None:
        """The poll has its item."""
        self._state.fetched(poll)
        self._tidy()

    def set_servers(self, servers: Sequence[ServerLink]) -> None:
        """Uses these servers from now on."""
        self._state.set_servers(self._linked(servers))
        self._run()

    def server_changed(self, server: ServerLink) -> None:
        """The server delivers items again, or no longer."""
        if (link := self._links.get(server)) is not None:
            self._state.server_changed(link)
            self._run()

    def stored(self, server: ServerLink, count: int) -> None:
        """`count` items of the queue were stored on the server."""
        link = self._links.get(server)
        if link is not None and self._state.stored(link, self.loop.time(), count):
            self._run()

    def offer(self) -> None:
        """There may be room on a server that was full."""
        self._run()

    def close(self, error: BackendUnavailable) -> None:
        """Ends every poll with `error`, also future ones; items that were not fetched go back."""
        self._over = error
        state = self._state
        for waiter in [*state.line, *state.given]:
            assert isinstance(waiter, LongPoll)
            state.left(waiter)
            waiter.end(error, None)
        for action in state.close():
            self._do(action)
        self._tidy()

    def end(self) -> None:
        """Breaks the reference cycles of a runner that is forgotten."""
        self._links.clear()
        self._state.set_servers(())

    def _sending(self, get: Get) -> float:
        return self._state.sent(get, self.loop.time())

    def _answered(self, get: Get, item: TakenItem | None, error: Unavailable | None) -> None:
        if get.waits and item is None and error is None:
            self._paced.add(self.tenant, partial(self._ended, get, None, None))
        else:
            self._ended(get, item, error)

    def _ended(self, get: Get, item: TakenItem | None, error: Unavailable | None) -> None:
        if self._gets.pop(get, None) is None:
            return  # closed while its end waited for its turn
        now = self.loop.time()
        if error is None:
            self._state.answered(get, item, now)
        else:
            self._state.cut(get, error, now)
        self._run()

    def _aborted(self, queue: ServerQueue, seen: bool) -> None:
        self._state.aborted(queue, seen=seen)
        self._run()

    # Actions

    def _run(self) -> None:
        """Carries out decisions until none is left. An action may cause the next event before it returns."""
        self._again = True
        if self._running:
            return
        self._running = True
        state = self._state
        try:
            while self._again:
                self._again = False
                for action in assign(state, self.loop.time()):
                    self._do(action)
        finally:
            self._running = False
        if state.starving:
            self._starve(self)
        if state.next_at < self._timer_at:
            self._set_timer(state.next_at)
        if not (state.line or state.given):
            self._tidy()

    def _do(self, action: PollAction) -> None:
        match action:
            case Send(get):
                self._gets[get] = sent = cast(QueueLink, get.queue.server).get(get)
                sent.start()
            case Give(waiter):
                assert isinstance(waiter, LongPoll)
                if not waiter.awaited and not waiter.timed:
                    waiter.time_from(self.loop.time() + waiter.patience_s)
                waiter.wake()
            case End(waiter):
                assert isinstance(waiter, LongPoll)
                waiter.end(*_outcome(action))
            case Close(get):
                if (pending := self._gets.pop(get, None)) is not None:
                    pending.close()
            case Abort(item, queue):
                self._counters.given_back_unserved += 1
                cast(TakenItem, item).start_abort(partial(self._aborted, queue))
            case GiveBack(item):
                self._counters.given_back_unserved += 1
                cast(TakenItem, item).give_back()

    # Timers

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self.loop.call_at(at, self._tick)

    def _tick(self) -> None:
        late_s = self.loop.time() - self._timer_at
        self._timer, self._timer_at = None, math.inf
        if late_s > LATE_S:
            self._set_timer(self.loop.time() + READ_S)
        else:
            self._run()

    def _linked(self, servers: Sequence[ServerLink]) -> list[QueueLink]:
        self._links = {
            server: self._links.get(server) or server.queue(self.key, self.tenant, self._sending, self._answered)
            for server in servers
        }
        return list(self._links.values())

    def _tidy(self) -> None:
        if self._state.idle:
            if self._timer is not None:
                self._timer.cancel()
                self._timer, self._timer_at = None, math.inf
            self._forget(self)


def _outcome(end: End) -> tuple[GatewayError | None, Coverage | None]:
    """The error or the coverage with which the poll ends."""
    if end.why is EndReason.NO_SERVER:
        return BackendUnavailable("no Kestrel server is known yet"), None
    if end.queue is not None:
        return cast(QueueLink, end.queue.server).trouble(end.why, end.queue.error), None
    return None, Coverage(end.asked, end.total) if 0 < end.asked < end.total else None
