"""The polls of one queue as plain state: an event changes it, then gateway.kestrel.polls.decision says what to do.

Does no I/O and has no clock: the time is an argument. The rules: gateway.kestrel.polls.rules.
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from collections.abc import Sequence

from gateway.kestrel.backoff import pause_s
from gateway.kestrel.polls.kept import KeptItems
from gateway.kestrel.polls.rules import (
    CHECK_S,
    FIRST_SLICE_S,
    GATHER_S,
    LINGER_S,
    LONGEST_SLICE_S,
    PROOF_S,
    QUEUE_GETS,
    SLICE_GROWTH,
    STEP_S,
    TURN_S,
)
from gateway.kestrel.polls.values import (
    EARLY_ENDS,
    Action,
    Close,
    End,
    Get,
    GiveBack,
    PolledItem,
    PolledServer,
    Send,
    Source,
    Waiter,
    WaiterPhase,
    Why,
    usable,
)


class QueuePolls:
    """The polls of one queue. waits: most per server. patience_s: the longest time that takes are waited for.

    line: all waiters without an item, the first to be served first. askers: those of them that ask, in the order of
    `since`. waiting: how many of them wait. furthest: the latest deadline of these. given: waiters that have an item
    and have not fetched it. arrived: waiters that came since the last decision. number: the last sequence number.
    actions: what events have caused and `assign` will return. next_at: the latest time for the next decision.
    silence_at: when takes are to be looked at for silent servers. quiet_at: when waits without waiters are closed.
    starving: whether waiters wait for room on a full server.
    """

    def __init__(self, servers: Sequence[PolledServer], waits: int, patience_s: float) -> None:
        self.line: OrderedDict[Waiter, None] = OrderedDict()
        self.askers: OrderedDict[Waiter, None] = OrderedDict()
        self.given: set[Waiter] = set()
        self.waiting = 0
        self.sources: list[Source] = []
        self.next_at = math.inf
        self.starving = False
        self._most_waits = waits
        self.patience_s = patience_s
        self.number = 0
        self._under_way = 0
        self.furthest = 0.0
        self.arrived: list[Waiter] = []
        self.actions: list[Action] = []
        self.silence_at = math.inf
        self.quiet_at = math.inf
        self.kept = KeptItems()
        self.set_servers(servers)

    @property
    def idle(self) -> bool:
        """Whether the state is no longer needed."""
        return not (self.line or self.given or self.kept.items or self.kept.going or self._under_way)

    @property
    def gets(self) -> int:
        """How many waits are on servers."""
        return sum(get.sent for source in self.sources for get in source.waits)

    # Events of servers

    def set_servers(self, servers: Sequence[PolledServer]) -> None:
        """Uses these servers from now on; gets on others are closed."""
        known = {source.server: source for source in self.sources}
        count = len(servers)
        limit = max(1, min(self._most_waits, QUEUE_GETS // count)) if count > 1 else self._most_waits
        self.sources = [
            known.pop(server) if server in known else Source(server, limit) for server in random.sample(servers, count)
        ]
        for source in self.sources:
            source.limit = limit
            source.look()
        for source in known.values():
            self.close_gets([*source.waits, *source.takes])

    def server_changed(self, server: PolledServer) -> None:
        """The server delivers items again, or no longer."""
        for source in self.sources:
            if source.server is server:
                source.look()
                if source.reads:
                    source.failures = 0
                    source.retry_at = -math.inf

    def stored(self, server: PolledServer, now: float) -> bool:
        """An item was stored on the server. Returns whether that matters: a wait should bring the item."""
        for source in self.sources:
            if source.server is server and source.waits and self.waiting:
                source.unseen += 1
                source.stored_at = now
                if source.check_at == math.inf:
                    source.check_at = now + CHECK_S
                    return True
        return False

    # Events of waiters

    def came(self, waiter: Waiter, now: float) -> None:
        """A poll begins."""
        self.line[waiter] = None
        self.arrived.append(waiter)
        self.quiet_at = math.inf
        if waiter.deadline <= now:
            waiter.ending = True
        self._begin(waiter, now)

    def timed_out(self, waiter: Waiter, now: float) -> None:
        """The waiter's time is over."""
        if waiter.phase is WaiterPhase.GIVEN and not waiter.awaited:
            self.end(waiter, Why.EMPTY)
            self._return(waiter)
        elif waiter.phase in (WaiterPhase.WAITING, WaiterPhase.ASKING) and not waiter.ending:
            self.pause(waiter)
            waiter.ending = True
            self._ask(waiter, now)

    def left(self, waiter: Waiter) -> None:
        """The waiter leaves; an item that it has not fetched goes to the next one."""
        if waiter.phase in (WaiterPhase.ASKING, WaiterPhase.WAITING):
            self.pause(waiter)
            del self.line[waiter]
            waiter.move(WaiterPhase.ENDED)
        elif waiter.phase is WaiterPhase.GIVEN:
            waiter.move(WaiterPhase.ENDED)
            self._return(waiter)

    def fetched(self, waiter: Waiter) -> None:
        """The waiter has its item."""
        waiter.move(WaiterPhase.SERVED)
        waiter.item = waiter.source = None
        self.given.discard(waiter)

    def lost(self, waiter: Waiter, now: float) -> None:
        """The waiter's item was lost before it was fetched: the waiter is the first in line again."""
        self.given.discard(waiter)
        waiter.item = waiter.source = None
        self.line[waiter] = None
        self.line.move_to_end(waiter, last=False)
        self._begin(waiter, now)

    # Events of gets and items

    def sent(self, get: Get, now: float) -> float:
        """The get has a connection. Returns its `t=` in seconds, 0 for a take."""
        self.number += 1
        get.number = self.number
        get.sent_at = now
        if get.waits:
            longest_s = 0.8 * QUEUE_GETS / len(self.sources) if len(self.sources) > QUEUE_GETS else math.inf
            get.wait_s = max(0.001, min(self.furthest - now, longest_s, get.source.server.longest_wait_s))
        return get.wait_s

    def answered(self, get: Get, item: PolledItem | None, now: float) -> None:
        """The get was answered: with an item, or empty."""
        source = self._over(get)
        source.answered_at = now
        source.failures = 0
        source.error = None
        source.empty = item is None
        if item is not None:
            source.early = 0
            source.retry_at = -math.inf
            source.unseen = max(0, source.unseen - 1)
            if not source.unseen:
                source.check_at = math.inf
            elif not get.waits:
                source.check_at = now  # a wake-up was lost, and there may be more
            self.kept.keep(item, source, GATHER_S if self.line or len(self.sources) == 1 else LINGER_S)
        elif not get.waits:
            source.proved = max(source.proved, get.number)
            source.done = max(source.done, get.number)
            source.unseen = 0
            source.check_at = math.inf
            if len(self.sources) > 1:
                self.silence_at = min(self.silence_at, now)
        elif now - get.sent_at >= get.wait_s / 2:
            source.early = 0
        elif source.retry_at <= now:
            source.early += 1
            if source.early >= EARLY_ENDS:
                pause = FIRST_SLICE_S * SLICE_GROWTH ** (source.early - EARLY_ENDS)
                source.retry_at = now + min(LONGEST_SLICE_S, pause)

    def cut(self, get: Get, error: Exception, now: float) -> None:
        """The get ended without an answer, or could get no connection."""
        source = self._over(get)
        source.error = error
        if get.number <= source.cut_number:
            return
        self.number += 1
        source.cut_number = self.number
        source.failures += 1
        if source.failures > 1:
            source.done = self.number
            source.retry_at = now + pause_s(source.failures - 1)

    def aborted(self, source: Source, *, seen: bool) -> None:
        """An item is back on its queue; not `seen`: it may be back."""
        self.kept.going.discard(source)
        if not seen:
            self.actions += map(GiveBack, self.kept.drop(source))
        self.actions += self.kept.next_back(source)

    def close(self) -> list[Action]:
        """Ends all service: kept items go back at once, and every get is closed."""
        self.actions += [GiveBack(item) for _, item, _ in reversed(self.kept.items)]
        self.kept.items.clear()
        for source in self.sources:
            self.close_gets([*source.waits, *source.takes])
        actions, self.actions = self.actions, []
        return actions

    # Changes of state, also by decisions

    def _begin(self, waiter: Waiter, now: float) -> None:
        """Makes the waiter ask or wait (rule 3)."""
        waits = self.waiting > 0
        for source in self.sources:
            waits = waits or bool(source.waits)
        if waits and not waiter.ending:
            self.start_waiting(waiter)
        else:
            self._ask(waiter, now)

    def _ask(self, waiter: Waiter, now: float) -> None:
        if waiter.phase is not WaiterPhase.ASKING:
            waiter.move(WaiterPhase.ASKING)
        self.number += 1
        waiter.since = self.number
        waiter.since_at = now
        alone = len(self.sources) > 1 and any(source.likely for source in usable(self.sources))
        waiter.alone_until = now + STEP_S if alone else now
        self.askers[waiter] = None
        self.silence_at = min(self.silence_at, now + min(PROOF_S, waiter.patience_s))

    def start_waiting(self, waiter: Waiter) -> None:
        """The waiter waits."""
        waiter.move(WaiterPhase.WAITING)
        self.waiting += 1
        self.furthest = max(self.furthest, waiter.deadline)

    def pause(self, waiter: Waiter) -> None:
        """The waiter neither asks nor waits."""
        if waiter.phase is WaiterPhase.WAITING:
            self.waiting -= 1
            if not self.waiting:
                self.furthest = 0.0
        else:
            del self.askers[waiter]

    def end(self, waiter: Waiter, why: Why, source: Source | None = None, *, asked: int = 0) -> None:
        """The call of the waiter ends without an item."""
        if waiter in self.line:
            self.pause(waiter)
            del self.line[waiter]
        waiter.move(WaiterPhase.ENDED)
        self.actions.append(End(waiter, why, asked, len(self.sources), source))

    def _return(self, waiter: Waiter) -> None:
        """Passes on the item of a waiter that does not want it."""
        self.given.discard(waiter)
        item, source = waiter.item, waiter.source
        waiter.item = waiter.source = None
        assert item is not None
        assert source is not None
        self.kept.keep(item, source, TURN_S)

    def send(self, source: Source, now: float, *, waits: bool) -> None:
        """A get is to be sent to the source."""
        self.number += 1
        placed = waits or source.places > 0
        if placed:
            source.places -= 1
            source.server.take_place()
        self._under_way += 1
        get = Get(source, waits, placed, self.number, now)
        (source.waits if waits else source.takes)[get] = None
        source.asked_at = now
        self.actions.append(Send(get))

    def _over(self, get: Get) -> Source:
        source = get.source
        del (source.waits if get.waits else source.takes)[get]
        self._under_way -= 1
        if get.placed:
            source.server.return_place()
        return source

    def close_gets(self, gets: Sequence[Get]) -> None:
        """Closes the newest first: an item that a get was about to bring returns to the head of its queue."""
        for get in reversed(gets):
            self._over(get)
            self.actions.append(Close(get))
