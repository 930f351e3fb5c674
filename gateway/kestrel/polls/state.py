"""The polls of one queue as plain state: an event changes it, then gateway.kestrel.polls.decision says what to do.

Does no I/O and has no clock: the time is an argument. The rules: gateway.kestrel.polls.rules.
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from collections.abc import Sequence
from itertools import takewhile

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
    Close,
    End,
    EndReason,
    Get,
    GiveBack,
    PollAction,
    PolledItem,
    PolledServer,
    Send,
    ServerQueue,
    Waiter,
    WaiterPhase,
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
        self.queues: list[ServerQueue] = []
        self.next_at = math.inf
        self.starving = False
        self._most_waits = waits
        self.patience_s = patience_s
        self.number = 0
        self._under_way = 0
        self.furthest = 0.0
        self.arrived: list[Waiter] = []
        self.actions: list[PollAction] = []
        self.silence_at = math.inf
        self.quiet_at = math.inf
        self.kept = KeptItems()
        self.set_servers(servers)

    @property
    def idle(self) -> bool:
        """Whether the state is no longer needed."""
        return not (self.line or self.given or self.kept.items or self.kept.going or self._under_way)

    @property
    def open_waits(self) -> int:
        """How many waits are on servers."""
        return sum(get.sent for queue in self.queues for get in queue.waits)

    # Events of servers

    def set_servers(self, servers: Sequence[PolledServer]) -> None:
        """Uses these servers from now on; gets on others are closed."""
        known = {queue.server: queue for queue in self.queues}
        count = len(servers)
        limit = max(1, min(self._most_waits, QUEUE_GETS // count)) if count > 1 else self._most_waits
        self.queues = [
            known.pop(server) if server in known else ServerQueue(server, limit)
            for server in random.sample(servers, count)
        ]
        for queue in self.queues:
            queue.limit = limit
            queue.look()
        for queue in known.values():
            self.close_gets([*queue.waits, *queue.takes])

    def server_changed(self, server: PolledServer) -> None:
        """The server delivers items again, or no longer."""
        for queue in self.queues:
            if queue.server is server:
                queue.look()
                if queue.delivers:
                    queue.failures = 0
                    queue.retry_at = -math.inf

    def stored(self, server: PolledServer, now: float, count: int = 1) -> bool:
        """`count` items were stored on the server. Returns whether that matters: a wait should bring one."""
        for queue in self.queues:
            if queue.server is server and queue.waits and self.waiting:
                queue.unseen += count
                queue.stored_at = now
                if queue.check_at == math.inf:
                    queue.check_at = now + CHECK_S
                    return True
        return False

    # Events of waiters

    def came(self, waiter: Waiter, now: float) -> None:
        """A poll begins."""
        join(self.line, waiter)
        self.arrived.append(waiter)
        self.quiet_at = math.inf
        if waiter.deadline <= now:
            waiter.ending = True
        self._begin(waiter, now)

    def timed_out(self, waiter: Waiter, now: float) -> None:
        """The waiter's time is over."""
        if waiter.phase is WaiterPhase.GIVEN and not waiter.awaited:
            self.end(waiter, EndReason.EMPTY)
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
        waiter.item = waiter.queue = None
        self.given.discard(waiter)

    def lost(self, waiter: Waiter, now: float) -> None:
        """The waiter's item was lost before it was fetched: the waiter is the first in line again."""
        self.given.discard(waiter)
        waiter.item = waiter.queue = None
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
            longest_s = 0.8 * QUEUE_GETS / len(self.queues) if len(self.queues) > QUEUE_GETS else math.inf
            get.wait_s = max(0.001, min(self.furthest - now, longest_s, get.queue.server.longest_wait_s))
        return get.wait_s

    def answered(self, get: Get, item: PolledItem | None, now: float) -> None:
        """The get was answered: with an item, or empty."""
        queue = self._over(get)
        queue.answered_at = now
        queue.failures = 0
        queue.error = None
        queue.empty = item is None
        if item is not None:
            queue.early = 0
            queue.retry_at = -math.inf
            queue.unseen = max(0, queue.unseen - 1)
            if not queue.unseen:
                queue.check_at = math.inf
            elif not get.waits:
                queue.check_at = now  # a wake-up was lost, and there may be more
            self.kept.keep(item, queue, GATHER_S if self.line or len(self.queues) == 1 else LINGER_S)
        elif not get.waits:
            queue.proved = max(queue.proved, get.number)
            queue.done = max(queue.done, get.number)
            queue.unseen = 0
            queue.check_at = math.inf
            if len(self.queues) > 1:
                self.silence_at = min(self.silence_at, now)
        elif now - get.sent_at >= get.wait_s / 2:
            queue.early = 0
        elif queue.retry_at <= now:
            queue.early += 1
            if queue.early >= EARLY_ENDS:
                pause = FIRST_SLICE_S * SLICE_GROWTH ** (queue.early - EARLY_ENDS)
                queue.retry_at = now + min(LONGEST_SLICE_S, pause)

    def cut(self, get: Get, error: Exception, now: float) -> None:
        """The get ended without an answer, or could get no connection."""
        queue = self._over(get)
        queue.error = error
        if get.number <= queue.cut_number:
            return
        self.number += 1
        queue.cut_number = self.number
        queue.failures += 1
        if queue.failures > 1:
            queue.done = self.number
            queue.retry_at = now + pause_s(queue.failures - 1)

    def aborted(self, queue: ServerQueue, *, seen: bool) -> None:
        """An item is back on its queue; not `seen`: it may be back."""
        self.kept.going.discard(queue)
        if not seen:
            self.actions += map(GiveBack, reversed(self.kept.drop(queue)))
        self.actions += self.kept.next_back(queue, self.given)

    def close(self) -> list[PollAction]:
        """Ends all service: kept items go back at once, and every get is closed."""
        self.actions += [GiveBack(item) for _, item, _ in reversed(self.kept.items)]
        self.kept.items.clear()
        for queue in self.queues:
            self.close_gets([*queue.waits, *queue.takes])
        actions, self.actions = self.actions, []
        return actions

    # Changes of state, also by decisions

    def _begin(self, waiter: Waiter, now: float) -> None:
        """Makes the waiter ask or wait (rule 3)."""
        waits = self.waiting > 0
        for queue in self.queues:
            waits = waits or bool(queue.waits)
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
        alone = len(self.queues) > 1 and any(queue.likely for queue in usable(self.queues))
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

    def end(self, waiter: Waiter, why: EndReason, queue: ServerQueue | None = None, *, asked: int = 0) -> None:
        """The call of the waiter ends without an item."""
        if waiter in self.line:
            self.pause(waiter)
            del self.line[waiter]
        waiter.move(WaiterPhase.ENDED)
        self.actions.append(End(waiter, why, asked, len(self.queues), queue))

    def _return(self, waiter: Waiter) -> None:
        """Passes on the item of a waiter that does not want it."""
        self.given.discard(waiter)
        item, queue = waiter.item, waiter.queue
        waiter.item = waiter.queue = None
        assert item is not None
        assert queue is not None
        self.kept.keep(item, queue, TURN_S)

    def send(self, queue: ServerQueue, now: float, *, waits: bool) -> None:
        """A get is to be sent to the queue."""
        self.number += 1
        placed = waits or queue.get_room > 0
        if placed:
            queue.get_room -= 1
            queue.server.take_place()
        self._under_way += 1
        get = Get(queue, waits, placed, self.number, now)
        (queue.waits if waits else queue.takes)[get] = None
        queue.asked_at = now
        self.actions.append(Send(get))

    def _over(self, get: Get) -> ServerQueue:
        queue = get.queue
        del (queue.waits if get.waits else queue.takes)[get]
        self._under_way -= 1
        if get.placed:
            queue.server.return_place()
        return queue

    def close_gets(self, gets: Sequence[Get]) -> None:
        """Closes the newest first: an item that a get was about to bring returns to the head of its queue."""
        for get in reversed(gets):
            self._over(get)
            self.actions.append(Close(get))


def join(line: OrderedDict[Waiter, None], waiter: Waiter) -> None:
    """The waiter joins the line in the order of arrival: polls that came later may be in line if it took directly."""
    later = list(takewhile(lambda each: each.order > waiter.order, reversed(line)))
    line[waiter] = None
    for each in reversed(later):
        line.move_to_end(each)
