"""Servers, connections and time as plain values, for the state of a queue's polls to be driven without any of them."""

from __future__ import annotations

import copy
import math
from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from gateway.kestrel.polls.decision import assign, try_join_takes
from gateway.kestrel.polls.kept import KeptItems
from gateway.kestrel.polls.state import QueuePolls
from gateway.kestrel.polls.values import (
    OPEN_PHASES,
    Abort,
    Close,
    End,
    Get,
    Give,
    GiveBack,
    Send,
    ServerFigures,
    Waiter,
    WaiterPhase,
)

PATIENCE_S = 7.0
LONGEST_WAIT_S = 1.0


@dataclass(eq=False)
class WorldItem:
    """An item; `order` is its place in its queue."""

    order: int
    server: WorldServer
    number: int = 0
    lost: bool = False

    def __repr__(self):
        return f"item {self.order}"


@dataclass(eq=False)
class WorldServer:
    """One queue on one server. item_limit: items that it may hold for us; places: gets that may be on it."""

    item_limit: int = 100
    places: int = 100
    taken: int = 0
    reads: bool = True
    heard_at: float = 0.0
    full_at: float = -math.inf
    longest_wait_s: float = LONGEST_WAIT_S
    queue: deque[WorldItem] = field(default_factory=deque)
    held: list[WorldItem] = field(default_factory=list)
    gets: dict[Get, None] = field(default_factory=dict)

    def figures(self, others: int) -> ServerFigures:
        return ServerFigures(self.reads, self.item_limit - len(self.held), self.places - self.taken)

    def take_place(self):
        self.taken += 1
        assert self.taken <= self.places

    def return_place(self):
        self.taken -= 1
        assert self.taken >= 0


class World:
    """A QueuePolls whose actions are done at once; the world's events are called by the test.

    told: every action in order. joined: how many polls caused no decision. emptied: for each server, when the takes
    were sent that found nothing.
    """

    def __init__(self, servers=1, waits=8):
        self.now = 100.0
        self.servers = [WorldServer() for _ in range(servers)]
        self.polls = QueuePolls(self.servers, waits, PATIENCE_S)
        self.waiters: list[Waiter] = []
        self.line: list[Waiter] = []
        self.closing: dict[Waiter, int] = {}
        self.told: list[object] = []
        self.ends: dict[Waiter, End] = {}
        self.going: list[Abort] = []
        self.unsent: list[Get] = []
        self.ready: list[Get] = []  # waits that found an item when they were sent
        self.connects = True
        self.count = self.taken = self.orders = self.joined = 0
        self.sent_at: dict[Get, int] = {}
        self.emptied: dict[WorldServer, list[int]] = {server: [] for server in self.servers}

    # What the state decides

    def run(self):
        actions = assign(self.polls, self.now)
        self.told += actions
        for action in actions:
            self.count += 1
            match action:
                case Send(get):
                    self.unsent.append(get)
                case Close(get):
                    self.close(get)
                case Give(waiter, item):
                    assert self.line[0] is waiter, "who came first is served first"
                    self.line.pop(0)
                    assert item in item.server.held
                    assert not item.lost
                case End(waiter):
                    self.ended(waiter, action)
                case Abort():
                    self.going.append(action)
                case GiveBack(item):
                    self.back(item)
        if self.connects:
            self.connect()

    def ended(self, waiter, end):
        self.ends[waiter] = end
        if waiter in self.line:
            self.line.remove(waiter)
        assert end.total == len(self.polls.queues)
        if end.asked:
            proofs = [any(sent > self.closing[waiter] for sent in self.emptied[server]) for server in self.servers]
            assert end.asked <= sum(proofs), "a wait that ends empty was proved by takes that were sent at its end"

    def connect(self):
        """The gets that wait for a connection have one."""
        gets, self.unsent = self.unsent, []
        for get in gets:
            self.count += 1
            wait_s = self.polls.sent(get, self.now)
            assert (wait_s > 0) is get.waits
            self.sent_at[get] = self.count
            server = get.queue.server
            if get.waits and len(server.queue) > sum(each.queue.server is server for each in self.ready):
                self.ready.append(get)
            server.gets[get] = None

    def close(self, get):
        if get in self.unsent:
            self.unsent.remove(get)
        else:
            del get.queue.server.gets[get]

    # What servers do

    def put(self, server, *, wakes=True, ours=False):
        """An item is stored; one of the waits there is answered, unless the wake-up is lost."""
        self.orders += 1
        item = WorldItem(self.orders, server)
        server.queue.append(item)
        if ours:
            self.polls.stored(server, self.now)
        if wakes:
            self.feed(server)
        self.run()
        return item

    def feed(self, server):
        for get in [each for each in server.gets if each.waits]:
            if server.queue:
                self.answer(get)

    def answer(self, get):
        """The server answers a get: the head item, or nothing."""
        server = get.queue.server
        del server.gets[get]
        server.heard_at = self.now
        item = server.queue.popleft() if server.queue else None
        if item is not None:
            self.taken += 1
            item.number = self.taken
            server.held.append(item)
        elif not get.waits:
            self.emptied[server].append(self.sent_at[get])
        self.polls.answered(get, item, self.now)
        self.run()

    def expire(self, get):
        """The time of a wait is over: it answers nothing, whatever is there."""
        server = get.queue.server
        del server.gets[get]
        server.heard_at = self.now
        self.polls.answered(get, None, self.now)
        self.run()

    def cut(self, get):
        if get in self.unsent:
            self.unsent.remove(get)
        else:
            del get.queue.server.gets[get]
        self.polls.cut(get, OSError("cut"), self.now)
        self.run()

    def back(self, item):
        server = item.server
        server.held.remove(item)
        server.queue.appendleft(item)
        self.feed(server)

    def go_back(self, action, *, seen=True):
        self.going.remove(action)
        self.back(action.item)
        self.polls.aborted(action.queue, seen=seen)
        self.run()

    def set_reads(self, server, reads):
        server.reads = reads
        self.polls.server_changed(server)
        self.run()

    # What callers do

    def come(self, timeout_s, order=None):
        """order: that of its arrival, if it has taken directly before."""
        patience_s = 0.25 if timeout_s else PATIENCE_S
        waiter = Waiter(self.now, self.now + timeout_s, patience_s, self.count + 1 if order is None else order)
        self.waiters.append(waiter)
        self.line.append(waiter)
        self.line.sort(key=lambda each: each.order)
        self.count += 1
        if not timeout_s:
            self.closing[waiter] = self.count
        unfinished = [each for each in self.waiters if each.phase in OPEN_PHASES]  # the others are not changed any more
        decided, waiters = copy.deepcopy((self.polls, unfinished))
        if try_join_takes(self.polls, waiter, self.now):
            self.joined += 1
            decided.came(waiters[-1], self.now)
            assert assign(decided, self.now) == [], "a poll that joins takes needs no decision"
            assert record(decided, waiters) == record(self.polls, unfinished), "what the decision would have left"
        else:
            self.polls.came(waiter, self.now)
            self.run()
        return waiter

    def leave(self, waiter):
        if waiter in self.line:
            self.line.remove(waiter)
        self.polls.left(waiter)
        self.run()

    def fetch(self, waiter):
        """It has its item, and has acked it."""
        item = waiter.item
        item.server.held.remove(item)
        item.server.full_at = self.now
        self.polls.fetched(waiter)
        self.run()
        return item

    def lose(self, waiter):
        """Its item goes back by itself before it is fetched."""
        item = waiter.item
        item.lost = True
        item.server.held.remove(item)
        item.server.queue.appendleft(WorldItem(item.order, item.server))
        self.line.insert(0, waiter)
        self.count += 1
        if waiter.ending:
            self.closing[waiter] = self.count
        self.polls.lost(waiter, self.now)
        self.run()

    # Time

    @property
    def gets(self):
        return [get for server in self.servers for get in server.gets]

    @property
    def waits(self):
        return [get for get in self.gets if get.waits]

    @property
    def takes(self):
        return [get for get in self.gets if not get.waits]

    def next_time(self):
        times = [self.polls.next_at, *(get.sent_at + get.wait_s for get in self.waits)]
        times += [each.deadline for each in self.waiters if each.phase in TIMED and each not in self.closing]
        return min(times)

    def advance(self, to):
        """Time passes; what is due happens in its order."""
        while (at := self.next_time()) <= to:
            self.now = max(self.now, at)
            for get in self.waits:
                if get.sent_at + get.wait_s <= self.now and get in get.queue.server.gets:
                    self.expire(get)
            for waiter in self.waiters:
                if waiter.deadline <= self.now and waiter.phase in TIMED and waiter not in self.closing:
                    self.count += 1
                    self.closing[waiter] = self.count
                    self.polls.timed_out(waiter, self.now)
                    if waiter.phase is WaiterPhase.ENDED and waiter in self.line:
                        self.line.remove(waiter)
            self.run()
            yield self.now
        self.now = to

    def lag(self, for_s):
        """Time passes, and no timer runs yet."""
        self.now += for_s

    def wait(self, for_s):
        """Time passes and servers answer nothing but what runs out."""
        for _ in self.advance(self.now + for_s):
            pass

    def settle(self, for_s=0.0):
        """Time passes, and every server answers at once."""
        self.flush()
        for _ in self.advance(self.now + for_s):
            self.flush()

    def flush(self):
        while True:
            if self.unsent:
                self.connect()
            elif self.takes:
                self.answer(self.takes[0])
            elif self.going:
                self.go_back(self.going[0])
            elif self.ready:
                if (get := self.ready.pop(0)) in get.queue.server.gets:
                    self.answer(get)
            else:
                return


TIMED = (WaiterPhase.ASKING, WaiterPhase.WAITING, WaiterPhase.GIVEN)


def record(polls, waiters):
    """Everything that the state holds, as plain values that are equal to those of an equal state."""
    gets = [get for queue in polls.queues for get in [*queue.takes, *queue.waits]]
    parts = [*waiters, *polls.queues, *gets]
    numbers = {id(part): f"#{number}" for number, part in enumerate(parts)}

    def plain(value):
        if isinstance(value, WorldServer):
            return None
        if isinstance(value, WorldItem):
            return value.order
        if isinstance(value, dict):
            return [(plain(key), plain(each)) for key, each in value.items()]
        if isinstance(value, list | tuple):
            return [plain(each) for each in value]
        if isinstance(value, set):
            return sorted(map(plain, value))
        if isinstance(value, Enum | Exception):
            return repr(value)
        return numbers.get(id(value)) or (of(value) if isinstance(value, KeptItems) else value)

    def of(part):
        names = getattr(part, "__slots__", None) or vars(part)
        return {name: plain(getattr(part, name)) for name in names}

    return [of(part) for part in [polls, *parts]]
