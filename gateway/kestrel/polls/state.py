"""The polls of one queue as a state machine: an event changes plain state, then `assign` says what to do.

Owns every decision about the queue's waiters, gets and items. Does no I/O and has no clock: the time is an argument.

A waiter first asks: each server gets a get without `t=`, called a take. If all are empty and the waiter has time left,
it waits, and gets with `t=`, called waits, stay on the servers. At its deadline it asks once more.

1. The first in line is served first, whichever get brought the item. A waiter whose item was lost is first again.
2. Takes run in parallel, each for its own item. An empty answer counts for each waiter that came before its take was
   sent. While a server's last answer is empty, it has one take at a time.
3. A waiter that comes while others wait, or while a wait is on a server, waits at once: there is nothing to take.
4. A poll ends empty only if a final take, sent at its end, has found nothing. A server that has answered nothing at
   all for PROOF_S is left out, and the answer says how many servers were asked; none is an error.
5. A server has as many waits as there are waiters, at most `limit`, and at most QUEUE_GETS in all. With more servers
   than that the waits change places, so that each server is read within a second.
6. With several servers, never more gets begin within STEP_S than there are waiters, so that a few polls on full queues
   do not take an item from every server. A server that was not read for UNREAD_S comes first, one that was empty last,
   otherwise the one with the oldest answer. A waiter that asks has one server for itself for so long, unless all were
   empty.
7. A server that is full, or has no place for a get of this queue, is left out. If all servers are like that, new
   waiters are refused and current ones keep waiting. A queue that has a wait on a server may send one take there even
   without a free place.
8. Items that arrive while no waiter is in line are kept for the next one for LINGER_S (with one server GATHER_S). Then
   they go back, the newest of a server first and each after the one before. No wait of this queue is on the server
   then, or it would get them. Items from a full server go back, too.
9. A get is closed only when no waiter is in line, when items go back, and when its server is removed.
10. A get whose connection ends is sent again, at first at once, then after growing pauses; a take fails for its waiters
    the second time. Gets that end together count once.
11. A server that answers a wait before its time is over does not support waiting (Siberite), or the queue was deleted.
    From the second time in a row one wait at a time is sent, in growing slices, until an item comes or one waits to its
    end.
12. If a wait is silent CHECK_S after an item was stored on its server, it is not relied on: one take asks. Source:
    kestrel-wire.md, "Lost wake-up". The server's `longest_wait_s` limits the delay of items from other writers.
"""

from __future__ import annotations

import math
import random
from bisect import insort
from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice
from typing import Final

from gateway.kestrel.backoff import pause_s
from gateway.kestrel.polls.values import (
    EARLY_ENDS,
    Action,
    Close,
    End,
    Get,
    Give,
    GiveBack,
    HandBack,
    PolledItem,
    PolledServer,
    Send,
    Source,
    Waiter,
    WaiterPhase,
    Why,
)

QUEUE_GETS: Final = 32
STEP_S = 0.005
LINGER_S, QUIET_S = 0.05, 1.0
GATHER_S, SETTLE_S, TURN_S = 0.005, 0.005, 0.0005
"""Answers of several gets to one event come within GATHER_S; items that go back have SETTLE_S until the next get may
find them; TURN_S is a turn of the event loop. LINGER_S and QUIET_S: how long a wait outlives its last waiter with
several servers, and with one."""
UNREAD_S: Final = 0.5
PROOF_S: Final = 0.25
CHECK_S: Final = 0.05
FIRST_SLICE_S, LONGEST_SLICE_S, SLICE_GROWTH = 0.02, 0.25, 1.5  # rule 11


class QueuePolls:
    """The polls of one queue. waits: most per server. patience_s: the longest time that takes are waited for.

    next_at: the latest time for the next call of `assign`. starving: whether waiters wait for room on a full server.
    """

    def __init__(self, servers: Sequence[PolledServer], waits: int, patience_s: float) -> None:
        self.line: OrderedDict[Waiter, None] = OrderedDict()
        self.askers: OrderedDict[Waiter, None] = OrderedDict()
        self.given: set[Waiter] = set()
        self.waiting = 0
        self.sources: list[Source] = []
        self.next_at = math.inf
        self.starving = False
        self._waits = waits
        self._patience_s = patience_s
        self._number = 0
        self._under_way = 0
        self._furthest = 0.0
        self._arrived: list[Waiter] = []
        self._actions: list[Action] = []
        self._silence_at = math.inf
        self._quiet_at = math.inf
        self._items: list[tuple[int, PolledItem, Source]] = []
        self._back_at = math.inf
        self._keep_s: float | None = None
        self._settling = False
        self._going: set[Source] = set()
        self.set_servers(servers)

    @property
    def idle(self) -> bool:
        """Whether the state is no longer needed."""
        return not (self.line or self.given or self._items or self._going or self._under_way)

    @property
    def gets(self) -> int:
        """How many waits are on servers."""
        return sum(get.sent for source in self.sources for get in source.waits)

    # Events of servers

    def set_servers(self, servers: Sequence[PolledServer]) -> None:
        """Uses these servers from now on; gets on others are closed."""
        known = {source.server: source for source in self.sources}
        count = len(servers)
        limit = max(1, min(self._waits, QUEUE_GETS // count)) if count > 1 else self._waits
        self.sources = [
            known.pop(server) if server in known else Source(server, limit) for server in random.sample(servers, count)
        ]
        for source in self.sources:
            source.limit = limit
            source.look()
        for source in known.values():
            self._close([*source.waits, *source.takes])

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

    def joins(self, waiter: Waiter, now: float) -> bool:
        """A poll begins that only awaits the takes under way, so that there is nothing to decide. Returns whether that
        is so; if not, call `came`.

        The state is then the same as after `came` and `assign`. No other event may be undecided.
        """
        silence_at = min(self._silence_at, now + min(PROOF_S, waiter.patience_s))
        sources = self.sources
        if self.waiting or self._items or silence_at <= now or not sources:
            return False
        for source in sources:
            limit = 1 if source.empty else source.limit
            if source.waits or len(source.takes) < limit or (not source.empty and len(sources) > 1):
                return False
        for source in sources:
            source.look()
            if not source.reads or source.full:
                return False
        if waiter.deadline <= now:
            waiter.ending = True
        self._number += 1
        waiter.since = self._number
        waiter.since_at = waiter.alone_until = now
        self.line[waiter] = self.askers[waiter] = None
        self._silence_at = self.next_at = silence_at
        return True

    def came(self, waiter: Waiter, now: float) -> None:
        """A poll begins."""
        self.line[waiter] = None
        self._arrived.append(waiter)
        self._quiet_at = math.inf
        if waiter.deadline <= now:
            waiter.ending = True
        self._begin(waiter, now)

    def timed_out(self, waiter: Waiter, now: float) -> None:
        """The waiter's time is over."""
        if waiter.phase is WaiterPhase.GIVEN and not waiter.awaited:
            self._end(waiter, Why.EMPTY)
            self._return(waiter)
        elif waiter.phase in (WaiterPhase.WAITING, WaiterPhase.ASKING) and not waiter.ending:
            self._pause(waiter)
            waiter.ending = True
            self._ask(waiter, now)

    def left(self, waiter: Waiter) -> None:
        """The waiter leaves; an item that it has not fetched goes to the next one."""
        if waiter.phase in (WaiterPhase.ASKING, WaiterPhase.WAITING):
            self._pause(waiter)
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
        self._number += 1
        get.number = self._number
        get.sent_at = now
        if get.waits:
            longest_s = 0.8 * QUEUE_GETS / len(self.sources) if len(self.sources) > QUEUE_GETS else math.inf
            get.wait_s = max(0.001, min(self._furthest - now, longest_s, get.source.server.longest_wait_s))
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
            self._keep(item, source, GATHER_S if self.line or len(self.sources) == 1 else LINGER_S)
        elif not get.waits:
            source.proved = max(source.proved, get.number)
            source.done = max(source.done, get.number)
            source.unseen = 0
            source.check_at = math.inf
            if len(self.sources) > 1:
                self._silence_at = min(self._silence_at, now)
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
        self._number += 1
        source.cut_number = self._number
        source.failures += 1
        if source.failures > 1:
            source.done = self._number
            source.retry_at = now + pause_s(source.failures - 1)

    def handed_back(self, source: Source, *, seen: bool) -> None:
        """An item is back on its queue; not `seen`: it may be back."""
        self._going.discard(source)
        if not seen:
            for number, item, held_by in [each for each in self._items if each[2] is source]:
                self._items.remove((number, item, held_by))
                self._actions.append(GiveBack(item))
        self._next_back(source)

    def close(self) -> list[Action]:
        """Ends all service: kept items go back at once, and every get is closed."""
        self._actions += [GiveBack(item) for _, item, _ in reversed(self._items)]
        self._items.clear()
        for source in self.sources:
            self._close([*source.waits, *source.takes])
        actions, self._actions = self._actions, []
        return actions

    # Decisions

    def assign(self, now: float) -> list[Action]:
        """What to do now, in this order. The state counts it as done."""
        self.next_at = math.inf
        self.starving = False
        reads = False
        for source in self.sources:
            source.look()
            reads = reads or source.reads
        if self._items:
            self._match(now)
        if self._arrived or self.askers:
            able = [source for source in self.sources if (source.reads or not reads) and not source.shut]
            if not able:
                self._refuse()
            self._arrived.clear()
            if self.askers:
                self._conclude(now, able)
                self._take(now, able)
        if self.waiting:
            self._check(now)
            self._wait(now)
        if not self.line:
            self._rest(now)
        if self._items:
            self._back(now)
        actions, self._actions = self._actions, []
        return actions

    def _match(self, now: float) -> None:
        """Gives items to waiters (rule 1)."""
        for each in list(self._items):
            _, item, source = each
            if item.lost:
                self._items.remove(each)
            elif self.line and source.items >= 0:
                self._items.remove(each)
                waiter, _ = self.line.popitem(last=False)
                self._pause(waiter)
                waiter.move(WaiterPhase.GIVEN)
                waiter.item, waiter.source = item, source
                self.given.add(waiter)
                self._actions.append(Give(waiter, item))
        if not self._items:
            self._back_at = math.inf
            self._settling = False
        elif self._keep_s is not None:
            keep_s = self._keep_s if any(source.items >= 0 for _, _, source in self._items) else 0.0
            if keep_s < GATHER_S and any(get.sent for each in self.sources for get in [*each.takes, *each.waits]):
                keep_s = GATHER_S
            self._back_at = now + keep_s
        self._keep_s = None

    def _refuse(self) -> None:
        """Ends the calls of new waiters while every server that delivers items is shut (rule 7)."""
        for source in self.sources:
            if source.reads:
                for waiter in self._arrived:
                    if waiter in self.line:
                        self._end(waiter, *self._trouble(source))
                return

    def _conclude(self, now: float, able: Sequence[Source]) -> None:
        """Uses the results of takes: waiters that have asked every server wait, or end (rules 3 and 4)."""
        done = self._number
        for source in able:
            done = min(done, source.done)
        while self.askers and (waiter := next(iter(self.askers))).since <= done:
            self._asked(waiter)
        if now < self._silence_at:
            self.next_at = min(self.next_at, self._silence_at) if self.askers else self.next_at
            return
        self._silence_at = math.inf
        for waiter in list(self.askers):
            due = self._silent_at(waiter, able)
            if now >= due:
                self._asked(waiter)
            else:
                self._silence_at = min(self._silence_at, due)
        self.next_at = min(self.next_at, self._silence_at)

    def _silent_at(self, waiter: Waiter, able: Sequence[Source]) -> float:
        """The time from which the waiter need not wait for its takes."""
        proved = any(source.proved >= waiter.since for source in self.sources)
        patience_s = PROOF_S if proved else waiter.patience_s
        silent_at = max(
            (source.server.heard_at for source in able if source.done < waiter.since), default=waiter.since_at
        )
        return min(max(silent_at, waiter.since_at) + patience_s, waiter.since_at + self._patience_s)

    def _asked(self, waiter: Waiter) -> None:
        if not waiter.ending:
            self._pause(waiter)
            self._park(waiter)
            return
        asked = 0
        for source in self.sources:
            if source.proved >= waiter.since:
                asked += 1
        why: tuple[Why, Source | None] = (Why.EMPTY, None) if asked else self._unasked(waiter)
        self._end(waiter, *why, asked=asked)

    def _unasked(self, waiter: Waiter) -> tuple[Why, Source | None]:
        """Why no server was asked."""
        if not self.sources:
            return Why.NO_SERVER, None
        for source in self.sources:
            if source.reads and source.server.full_at >= waiter.joined_at:
                return Why.FULL, source
        return self._trouble(next((source for source in self.sources if source.shut), self.sources[0]))

    @staticmethod
    def _trouble(source: Source) -> tuple[Why, Source]:
        if not source.reads:
            return Why.DOWN, source
        if source.shut:
            return (Why.FULL if source.full else Why.CROWDED), source
        if source.error is not None:
            return Why.FAILED, source
        sent = any(get.sent for get in [*source.takes, *source.waits])
        return (Why.SILENT if sent else Why.UNCONNECTED), source

    def _take(self, now: float, able: Sequence[Source]) -> None:
        """Sends gets without `t=` for waiters that ask (rules 2 and 6)."""
        alone = 0
        if len(able) > 1:
            heard = max(source.done for source in able)
            for waiter in reversed(self.askers):
                if waiter.since <= heard or waiter.alone_until <= now:
                    break
                alone += 1
                self.next_at = min(self.next_at, waiter.alone_until)
        under_way = 0
        for source in able:
            limit = 1 if source.empty else source.limit
            need = 0
            for waiter in islice(reversed(self.askers), alone, None):
                if waiter.since <= source.done or need >= limit:
                    break
                need += 1
            if need > len(source.takes):
                for _ in range(min(need - len(source.takes), source.take_room())):
                    self._send(source, now, waits=False)
            under_way += len(source.takes)
        for _ in range(alone - under_way):
            likely = [each for each in able if each.likely and len(each.takes) < each.limit and each.take_room()]
            if not likely:
                break
            self._send(min(likely, key=lambda each: each.last_at), now, waits=False)

    def _check(self, now: float) -> None:
        """Sends takes where a wait should have brought an item by now (rule 12)."""
        for source in self.sources:
            if source.check_at > now:
                self.next_at = min(self.next_at, source.check_at)
                continue
            source.check_at = math.inf
            oldest = next(iter(source.waits), None)
            if source.takes or oldest is None or oldest.sent_at > source.stored_at:
                continue
            if source.take_room():
                self._send(source, now, waits=False)

    def _wait(self, now: float) -> None:
        """Sends gets with `t=` for waiters that wait (rules 5 and 6)."""
        if self._furthest - now < STEP_S:
            return
        for source in self.sources:
            if source.retry_at > now:
                self.next_at = min(self.next_at, source.retry_at)
        usable = self._usable()
        if len(self.sources) == 1:
            source = usable[0]
            count = source.wants(self.waiting, now)
            for _ in range(count):
                self._send(source, now, waits=True)
            self.starving = not count and source.shut
            return
        self.starving = any(source.shut for source in self.sources)
        waits = [get for source in self.sources for get in source.waits]
        free = self.waiting - sum(now - get.begun_at < STEP_S for get in waits)
        left = QUEUE_GETS - len(waits)
        room = {source: count for source in usable if (count := source.wants(self.waiting, now))}
        for _ in range(min(free, left)):
            if not room:
                break
            source = min(room, key=lambda each: _rank(each, now))
            self._send(source, now, waits=True)
            room[source] -= 1
            if not room[source]:
                del room[source]
            left -= 1
        if room and left > 0:
            self.next_at = min(self.next_at, now + STEP_S)

    def _rest(self, now: float) -> None:
        """No waiter is in line (rule 9)."""
        waits = False
        for source in self.sources:
            source.retry_at = -math.inf
            source.check_at = math.inf
            source.unseen = 0
            if source.takes or source.waits:
                self._close([get for get in [*source.takes, *source.waits] if not get.sent])
                waits = waits or bool(source.waits)
        if not waits:
            self._quiet_at = math.inf
        elif self._quiet_at == math.inf:
            self._quiet_at = now + (LINGER_S if len(self.sources) > 1 else QUIET_S)
        elif now >= self._quiet_at:
            self._quiet_at = math.inf
            for source in self.sources:
                self._close(list(source.waits))
            if self._items:
                self._settling = True
                self._back_at = max(self._back_at, now + SETTLE_S)
        self.next_at = min(self.next_at, self._quiet_at)

    def _back(self, now: float) -> None:
        """Sends kept items back when their time has come (rule 8)."""
        if now < self._back_at:
            self.next_at = min(self.next_at, self._back_at)
            return
        if not self._settling:
            stood = [source for source in self.sources if source.waits and (not self.line or source.full)]
            for source in stood:
                self._close(list(source.waits))
            if stood:
                self._settling = True
                self._back_at = now + SETTLE_S
                self.next_at = min(self.next_at, self._back_at)
                return
        self._back_at = math.inf
        self._settling = False
        for source in dict.fromkeys(source for _, _, source in self._items):
            if source not in self._going:
                self._next_back(source)

    # Changes of state

    def _usable(self) -> list[Source]:
        """The sources whose server delivers items; if there is none, all that may be tried."""
        return [source for source in self.sources if source.reads] or self.sources

    def _begin(self, waiter: Waiter, now: float) -> None:
        """Makes the waiter ask or wait (rule 3)."""
        waits = self.waiting > 0
        for source in self.sources:
            waits = waits or bool(source.waits)
        if waits and not waiter.ending:
            self._park(waiter)
        else:
            self._ask(waiter, now)

    def _ask(self, waiter: Waiter, now: float) -> None:
        if waiter.phase is not WaiterPhase.ASKING:
            waiter.move(WaiterPhase.ASKING)
        self._number += 1
        waiter.since = self._number
        waiter.since_at = now
        alone = len(self.sources) > 1 and any(source.likely for source in self._usable())
        waiter.alone_until = now + STEP_S if alone else now
        self.askers[waiter] = None
        self._silence_at = min(self._silence_at, now + min(PROOF_S, waiter.patience_s))

    def _park(self, waiter: Waiter) -> None:
        waiter.move(WaiterPhase.WAITING)
        self.waiting += 1
        self._furthest = max(self._furthest, waiter.deadline)

    def _pause(self, waiter: Waiter) -> None:
        """The waiter neither asks nor waits."""
        if waiter.phase is WaiterPhase.WAITING:
            self.waiting -= 1
            if not self.waiting:
                self._furthest = 0.0
        else:
            del self.askers[waiter]

    def _end(self, waiter: Waiter, why: Why, source: Source | None = None, *, asked: int = 0) -> None:
        if waiter in self.line:
            self._pause(waiter)
            del self.line[waiter]
        waiter.move(WaiterPhase.ENDED)
        self._actions.append(End(waiter, why, asked, len(self.sources), source))

    def _return(self, waiter: Waiter) -> None:
        """Passes on the item of a waiter that does not want it."""
        self.given.discard(waiter)
        item, source = waiter.item, waiter.source
        waiter.item = waiter.source = None
        assert item is not None
        assert source is not None
        self._keep(item, source, TURN_S)

    def _keep(self, item: PolledItem, source: Source, for_s: float) -> None:
        """Keeps the item for this long, and for GATHER_S while a get may bring another one."""
        insort(self._items, (item.number, item, source))
        self._keep_s = for_s

    def _next_back(self, source: Source) -> None:
        for each in reversed(self._items):
            if each[2] is source:
                self._items.remove(each)
                if not each[1].lost:
                    self._going.add(source)
                    self._actions.append(HandBack(each[1], source))
                    return

    def _send(self, source: Source, now: float, *, waits: bool) -> None:
        self._number += 1
        placed = waits or source.places > 0
        if placed:
            source.places -= 1
            source.server.take_place()
        self._under_way += 1
        get = Get(source, waits, placed, self._number, now)
        (source.waits if waits else source.takes)[get] = None
        source.asked_at = now
        self._actions.append(Send(get))

    def _over(self, get: Get) -> Source:
        source = get.source
        del (source.waits if get.waits else source.takes)[get]
        self._under_way -= 1
        if get.placed:
            source.server.return_place()
        return source

    def _close(self, gets: Sequence[Get]) -> None:
        """Closes the newest first: an item that a get was about to bring returns to the head of its queue."""
        for get in reversed(gets):
            self._over(get)
            self._actions.append(Close(get))


def _rank(source: Source, now: float) -> tuple[int, float]:
    """The rank: a lower one is asked earlier (rule 6)."""
    if not source.under_way and now - source.last_at > UNREAD_S:
        return 0, source.last_at
    return (2 if source.empty else 1), source.last_at
