"""The waiters of one queue, in order of arrival, and how its servers are asked for them.

Owns whom an item serves and how many gets stand on which server. Opens no connection; a Feeder a server does.

1. Waiters are served first come, first served; a lost item's waiter is first again.
2. A line is forgotten when nobody waits, every item that was given is fetched, and nothing is under way: a queue
   never has two lines.
With several servers, also:
3. Never are more gets begun within STEP_S than there are waiters, so that a few polls on full queues do not take an
   item from every server: who was not read for UNREAD_S comes first, who was empty last, else whose turn it is. For
   one who asks once the first is asked alone for so long, and then the others.
4. As many gets stand on a server as there are waiters, at most `waits`, and at most LINE_GETS in all. With more servers
   than that they change places, so that each is read within a second.
5. A server is left out that is full, or has no place for a get of this queue; who comes when all are so is refused, who
   waits already waits on.
6. What arrives while nobody waits is kept for the next poll, for LINGER_S, and gets that still stand then are closed.

Items that nobody wants, or that a full server may not hold for us, are gathered for GATHER_S and go back together, so
that their queue has its order again (Surplus). No get of ours stands there then: it would be given them.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable, Sequence

from gateway.errors import BackendUnavailable, Unavailable
from gateway.kestrel.counters import Counters
from gateway.kestrel.feeder import Feeder
from gateway.kestrel.reads import OpenRead
from gateway.kestrel.server.server import Server
from gateway.kestrel.surplus import Surplus
from gateway.kestrel.waiter import PROOF_S, Waiter
from gateway.survey import Coverage

LINE_GETS = 32
STEP_S = 0.005
LINGER_S, QUIET_S = 0.05, 1.0
GATHER_S, SETTLE_S = 0.005, 0.005
UNREAD_S = 0.5
STRAGGLER_S = 0.25


class Line:
    """The waiters of one queue, and its feeders. tenant: whose queue it is. waits: gets a server at most.

    starve: is told when some wait for room on a full server; `spread` is to be called when there is some.
    """

    __slots__ = (
        "_back_timer", "_counters", "_doubting", "_forget", "_given", "_over", "_quiet_timer", "_starve", "_step_timer",
        "_surplus", "_waiters", "_waits", "feeders", "furthest", "key", "longest_wait_s", "loop", "parked", "tenant",
    )  # fmt: skip

    def __init__(
        self,
        key: str,
        tenant: str,
        servers: Sequence[Server],
        waits: int,
        counters: Counters,
        *,
        forget: Callable[[Line], None],
        starve: Callable[[Line], None],
    ) -> None:
        self.key = key
        self.tenant = tenant
        self.loop = asyncio.get_running_loop()
        self.furthest = 0.0
        self.parked = 0
        self.longest_wait_s = float("inf")
        self.feeders: list[Feeder] = []
        self._waits = waits
        self._counters = counters
        self._forget = forget
        self._starve = starve
        self._waiters: OrderedDict[Waiter, None] = OrderedDict()
        self._given: set[Waiter] = set()
        self._surplus = Surplus(counters, self.tidy)
        self._doubting: list[Waiter] = []
        self._over: BackendUnavailable | None = None
        self._step_timer: asyncio.TimerHandle | None = None
        self._quiet_timer: asyncio.TimerHandle | None = None
        self._back_timer: asyncio.TimerHandle | None = None
        self.set_servers(servers)

    def __len__(self) -> int:
        return len(self._waiters)

    def set_servers(self, servers: Sequence[Server]) -> None:
        """From now on these are asked; what stands on others is closed."""
        known = {feeder.server: feeder for feeder in self.feeders}
        share = max(1, min(self._waits, LINE_GETS // max(1, len(servers)))) if len(servers) > 1 else self._waits
        self.feeders = [
            known.pop(server) if server in known else Feeder(self, server, share, self._counters)
            for server in random.sample(servers, len(servers))
        ]
        for feeder in self.feeders:
            feeder.limit = share
        crowded = len(servers) > LINE_GETS
        self.longest_wait_s = 0.8 * LINE_GETS / len(servers) if crowded else float("inf")
        for feeder in known.values():
            feeder.leave()
        if self.parked:
            self.spread()

    def server_changed(self, server: Server) -> None:
        """Asks a server that is back; one that gives nothing out any more is left alone until it is."""
        for feeder in self.feeders:
            if feeder.server is server and server.reads:
                feeder.revive()
        if self.parked:
            self.spread()

    # Who waits

    def join(self, waiter: Waiter) -> None:
        """Puts him last and has the servers asked at once; ends his wait where all of them are full."""
        self._waiters[waiter] = None
        self._ask_for(waiter)
        if not waiter.once and waiter.waiting and (feeder := self._full()) is not None:
            waiter.end(feeder.trouble())

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
        """The item is the first waiter's; else it is kept for a moment (rule 6)."""
        if self._waiters:
            self._give(read)
        else:
            self.keep(read, LINGER_S if len(self.feeders) > 1 else GATHER_S)

    def pass_on(self, read: OpenRead) -> None:
        """A waiter who was given the item does not want it: the next one's, or back to the queue."""
        if self._waiters:
            self._give(read)
        else:
            self.keep(read)

    def keep(self, read: OpenRead, for_s: float = GATHER_S) -> None:
        """Nobody may have the item now: it goes back, with those that come meanwhile."""
        self._surplus.add(read)
        if self._over is not None:
            self._surplus.give_back()
        elif for_s <= GATHER_S and not any(feeder.expecting for feeder in self.feeders):
            self._back_later(0, self._go_back)
        else:
            self._back_later(for_s, self._gathered)

    def _give(self, read: OpenRead) -> None:
        waiter, _ = self._waiters.popitem(last=False)
        self._given.add(waiter)
        waiter.give(read)
        self._one_less(waiter)

    def _ask_for(self, waiter: Waiter) -> None:
        self.parked += not waiter.once
        if self._over is not None:
            waiter.end(self._over)
            return
        if not waiter.once:
            self.furthest = max(self.furthest, waiter.deadline)
        if (read := self._surplus.take()) is not None:
            self._give(read)
        if not waiter.waiting:
            return
        if waiter.once:
            self._ask_once(waiter)
        else:
            for feeder in self.feeders:
                feeder.joined()
            self.spread()

    def _one_less(self, waiter: Waiter) -> None:
        self.parked -= not waiter.once
        if not self.parked:
            self.furthest = 0.0
        if not self._waiters:
            for feeder in self.feeders:
                feeder.rest()
            if self._quiet_timer is None and any(feeder.standing for feeder in self.feeders):
                self._quiet_timer = self.loop.call_later(
                    LINGER_S if len(self.feeders) > 1 else QUIET_S, self._fall_quiet
                )

    # Those who wait: gets that stand

    def spread(self) -> None:
        """Has gets sent where they are missing, as rules 3 and 4 allow."""
        if len(self.feeders) == 1:
            feeder = self.feeders[0]
            count = min(feeder.room, self.parked - feeder.under_way)
            if count > 0:
                feeder.permit(count)
            elif feeder.shut:
                self._starve(self)
            return
        if any(feeder.shut for feeder in self.feeders):
            self._starve(self)
        open_to = self._able([feeder for feeder in self.feeders if self._wants(feeder)])
        if not open_to:
            return
        now = self.loop.time()
        since = now - STEP_S
        free = self.parked - sum(feeder.young(since) for feeder in self.feeders)
        left = LINE_GETS - sum(feeder.under_way for feeder in self.feeders)
        for _ in range(min(free, left)):
            feeder = min(open_to, key=lambda each: _rank(each, now))
            feeder.permit(1)
            if not self._wants(feeder):
                open_to.remove(feeder)
                if not open_to:
                    return
        if left > 0 and self._step_timer is None and self.parked:
            self._step_timer = self.loop.call_later(STEP_S, self._step)

    def _wants(self, feeder: Feeder) -> bool:
        return feeder.under_way < self.parked and feeder.room > 0

    def _able(self, feeders: list[Feeder]) -> list[Feeder]:
        """Those whose server gives out items; where none does, all that may be tried."""
        reading = [feeder for feeder in feeders if feeder.server.reads]
        if len(reading) < len(feeders) and not any(feeder.server.reads for feeder in self.feeders):
            return feeders
        return reading

    def _full(self) -> Feeder | None:
        """One of those whose server gives out items, where all of them are shut."""
        full = None
        for feeder in self.feeders:
            if feeder.server.reads:
                if not feeder.shut:
                    return None
                full = full or feeder
        return full

    def _step(self) -> None:
        self._step_timer = None
        if self.parked:
            self.spread()

    # Those who ask once

    def _ask_once(self, waiter: Waiter) -> None:
        reading = self._able(self.feeders)
        able = [feeder for feeder in reading if not feeder.shut]
        if not able:
            waiter.end(reading[0].trouble() if reading else BackendUnavailable("no Kestrel server is known yet"))
            return
        waiter.asks = len(able)
        if len(able) > 1:
            likely = [feeder for feeder in able if not feeder.empty]
            if likely:
                first = min(likely, key=lambda feeder: feeder.last_at)
                waiter.later = [feeder for feeder in able if feeder is not first]
                self.loop.call_later(STEP_S, self._ask_others, waiter)
                able = [first]
        for feeder in able:
            feeder.ask(waiter)

    def _ask_others(self, waiter: Waiter) -> None:
        """Asks all who were not asked yet for one who still waits."""
        later, waiter.later = waiter.later, []
        if waiter.waiting:
            for feeder in later:
                if feeder in self.feeders:
                    feeder.ask(waiter)
                else:
                    waiter.asks -= 1

    def asked(self, waiter: Waiter, error: Unavailable | None) -> None:
        """One server answered the question of a waiter who asks only once: nothing there, or `error`."""
        waiter.asks -= 1
        waiter.heard += error is None
        if waiter.later:
            self._ask_others(waiter)
        if waiter.asks <= 0:
            waiter.end(self.unasked(waiter) if error is not None else None)
        elif waiter.heard == 1 and error is None:
            waiter.hurry(STRAGGLER_S)

    # What a wait that ended empty proves

    def coverage(self, waiter: Waiter) -> Coverage:
        """How many servers were really asked while he waited."""
        if waiter.once and len(self.feeders) > 1:
            return Coverage(min(waiter.heard, len(self.feeders)), len(self.feeders))
        asked = sum(feeder.asked_since(waiter.joined_at) for feeder in self.feeders)
        return Coverage(asked, len(self.feeders))

    def gap(self, waiter: Waiter) -> Coverage | None:
        """The coverage of his wait where it is partial."""
        if len(self.feeders) == 1:
            return None
        coverage = self.coverage(waiter)
        return coverage if coverage.partial else None

    def unasked(self, waiter: Waiter) -> Unavailable | None:
        """Why his wait proves nothing, or None when a server was really asked while he waited."""
        if self.coverage(waiter).asked:
            return None
        if not self.feeders:
            return BackendUnavailable("no Kestrel server is known yet")
        for feeder in self.feeders:
            if feeder.server.reads and feeder.full_at >= waiter.joined_at:
                return feeder.no_room()
        return next((feeder for feeder in self.feeders if feeder.shut), self.feeders[0]).trouble()

    def doubts(self, waiter: Waiter) -> bool:
        """Whether servers have to be heard before his wait, which is over, may end; it ends when they are."""
        silent = [] if waiter.once else [feeder for feeder in self.feeders if feeder.doubtful(waiter.joined_at)]
        if not silent:
            return False
        self.furthest = max(self.furthest, self.loop.time() + PROOF_S)
        self._doubting.append(waiter)
        for feeder in silent:
            feeder.server.pulse.ask(self._heard)
        return True

    def _heard(self) -> None:
        """A server has answered: the waits that are over and are in doubt no more end."""
        doubting, self._doubting = self._doubting, []
        for waiter in doubting:
            if not waiter.waiting:
                continue
            if any(feeder.doubtful(waiter.joined_at) for feeder in self.feeders):
                self._doubting.append(waiter)
            else:
                waiter.end(self.unasked(waiter))

    # Quiet, and the end

    def _fall_quiet(self) -> None:
        self._quiet_timer = None
        if not self._waiters:
            for feeder in self.feeders:
                feeder.withdraw()
        self.tidy()

    def _back_later(self, delay_s: float, then: Callable[[], None]) -> None:
        if self._back_timer is not None:
            self._back_timer.cancel()
        self._back_timer = self.loop.call_later(delay_s, then)

    def _gathered(self) -> None:
        """All that come are here: the gets that stand are closed, and the server is given time to notice."""
        self._back_timer = None
        if not self._surplus:
            self.tidy()
            return
        stood = [feeder for feeder in self.feeders if feeder.standing and (not self._waiters or feeder.full)]
        for feeder in stood:
            feeder.withdraw()
        if stood:
            self._back_later(SETTLE_S, self._go_back)
        else:
            self._go_back()

    def _go_back(self) -> None:
        self._back_timer = None
        self._surplus.hand_back()
        self.tidy()

    def tidy(self) -> None:
        """Forgets the line when nobody needs it any more (rule 2)."""
        if self._waiters or self._given or self._surplus or any(feeder.busy for feeder in self.feeders):
            return
        for timer in (self._step_timer, self._quiet_timer, self._back_timer):
            if timer is not None:
                timer.cancel()
        self._step_timer = self._quiet_timer = self._back_timer = None
        self._forget(self)

    def close(self, error: BackendUnavailable) -> None:
        """Ends every wait with `error`, also those that are to come; items that nobody fetched go back."""
        for waiter in [*self._waiters, *self._given]:
            waiter.end(error)
        self._over = error
        self._surplus.give_back()
        self.tidy()


def _rank(feeder: Feeder, now: float) -> tuple[int, float]:
    """The lower, the sooner it is asked (rule 3)."""
    if not feeder.under_way and now - feeder.last_at > UNREAD_S:
        return 0, feeder.last_at
    return (2 if feeder.empty else 1), feeder.last_at
