"""The blocked gets of one queue on one server, re-armed while anyone waits.

Owns when the server is asked. The gets belong to the queue: whoever stands first in its line gets what they bring,
and a waiter that vanishes closes none. Whom an item serves, and how many gets there may be, says the line (`Asker`).

1. A get is closed only by its own deadline, by the server, or by `withdraw`.
2. A get that is cut before its time is armed again, after growing pauses, while waiters keep waiting.
3. A server that answers END before the time is over does not wait (Siberite) or had the queue deleted: from the second
   in a row one get at a time is sent, in slices that grow, until an item comes or a get waits its time out.
4. A waiter who asks once is answered by a get without a wait that was sent after he came: by one of his own, or by
   another one's END. What such a get brings still serves the first in line. As long as the queue is empty one such
   get at a time is sent, so that all who come meanwhile share the next; where several shared one, the next is sent
   GATHER_S later, since more will come.
5. A server that is full for the line's tenant is sent no get; what a get brings that stands there already goes back to
   its queue.
6. Every get has a place of those that its server has for the tenant, from its permit on until it has ended.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from gateway.errors import BackendRefused, BackendUnavailable, TooManyLeases, TooManyWaiters, Unavailable
from gateway.kestrel.backoff import pause_s
from gateway.kestrel.counters import Counters
from gateway.kestrel.reads import OpenRead
from gateway.kestrel.server.server import Server
from gateway.kestrel.wire.codec import KestrelClient
from gateway.kestrel.wire.connection import Connection, ConnectionLostError, State
from gateway.kestrel.wire.failures import not_asked

FIRST_SLICE_S, LONGEST_SLICE_S, SLICE_GROWTH = 0.02, 0.25, 1.5
EARLY_ENDS = 2
GATHER_S = 0.001
FRESH_S = 0.25


class Caller(Protocol):
    """A waiter who asks once."""

    @property
    def waiting(self) -> bool: ...


class Asker(Protocol):
    """What a feeder needs of its line: how many are `parked` in it, and the loop time of their `furthest` deadline.

    tenant: whose queue it is.

    longest_wait_s: of one get. spread: the line says anew who may ask.
    """

    key: str
    tenant: str
    loop: asyncio.AbstractEventLoop
    parked: int
    furthest: float
    longest_wait_s: float

    def serve(self, read: OpenRead) -> None: ...
    def keep(self, read: OpenRead) -> None: ...
    def asked(self, waiter: Any, error: Unavailable | None) -> None: ...
    def spread(self) -> None: ...
    def tidy(self) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class Get:
    """One blocked get on the server."""

    sent_at: float
    wait_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """One get without a wait, for a waiter who asks once. `came`: how many had been sent when he came.

    again: it may be repeated when it is cut.
    """

    caller: Caller
    came: int
    again: bool = True


class Feeder:
    """Keeps a queue's gets standing on one server.

    limit: as many at most; the line may set it anew. bringing, empty: what the last answer was, if there was one.
    """

    __slots__ = (
        "_answered_at", "_asked", "_asking", "_counters", "_early", "_error", "_failures", "_gather", "_gets", "_line",
        "_permits", "_permitted_at", "_questions", "_retry", "_wanted", "bringing", "empty", "limit", "server",
    )  # fmt: skip

    def __init__(self, line: Asker, server: Server, limit: int, counters: Counters) -> None:
        self.server = server
        self.limit = limit
        self.bringing = self.empty = False
        self._line = line
        self._counters = counters
        self._gets: dict[Get, Connection] = {}
        self._permits = 0
        self._permitted_at = -1.0
        self._wanted: set[asyncio.Future[Connection]] = set()
        self._questions: deque[Question] = deque()
        self._gather: asyncio.TimerHandle | None = None
        self._asking = 0
        self._asked = 0
        self._answered_at = -1.0
        self._failures = 0
        self._early = 0
        self._error: BackendUnavailable | None = None
        self._retry: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return bool(self._gets or self._asking or self._wanted or self._questions)

    @property
    def standing(self) -> int:
        """How many gets are on the server."""
        return len(self._gets)

    @property
    def expecting(self) -> bool:
        """Whether an answer is to come."""
        return bool(self._gets or self._asking)

    @property
    def under_way(self) -> int:
        """How many gets are on the server or may be sent."""
        return len(self._gets) + self._permits

    @property
    def room(self) -> int:
        """How many more gets it could send now."""
        server, tenant = self.server, self._line.tenant
        if self._retry is not None or server.full(tenant):
            return 0
        count = self.under_way
        limit = min(1 if self._sliced else self.limit, server.items.room(tenant))
        return min(limit - count, server.wait_room(tenant, count))

    @property
    def full(self) -> bool:
        """Whether its server may hold no further item for the tenant."""
        return self.server.full(self._line.tenant)

    @property
    def full_at(self) -> float:
        """The loop time until which it was full last; infinite while it is."""
        return self.server.full_at(self._line.tenant)

    @property
    def shut(self) -> bool:
        """Whether its server gives out items and may be sent no get for this queue, which has none there."""
        server = self.server
        return server.reads and (self.full or (not self.under_way and server.crowded(self._line.tenant)))

    @property
    def last_at(self) -> float:
        """The loop time at which the server was last asked or has last answered."""
        return max(self._answered_at, self._permitted_at)

    def young(self, since: float) -> int:
        """How many gets were begun after that moment: perhaps there are items for them."""
        count = self._permits if self._permitted_at > since else 0
        for get in reversed(self._gets):
            if get.sent_at <= since:
                break
            count += 1
        return count

    def asked_since(self, moment: float) -> bool:
        """Whether the server answered after that moment, or has a get of ours standing now and answers something.

        One that was full since then, and whose last answer was an item, may have more that it was not asked for.
        """
        if self._gets and self.server.reads and self._heard_since(moment):
            return True
        return self._answered_at >= moment and (self.empty or self.full_at < moment)

    def doubtful(self, moment: float) -> bool:
        """Whether it is not asked since then for no other reason than that it has not answered anything."""
        return bool(self._gets) and self.server.reads and not self.asked_since(moment)

    def _heard_since(self, moment: float) -> bool:
        """Whether the server answered something after that moment and the oldest get that stands, or just now."""
        heard_at = self.server.pulse.heard_at
        if heard_at >= max(moment, next(iter(self._gets)).sent_at):
            return True
        return self._line.loop.time() - heard_at <= FRESH_S

    def trouble(self) -> Unavailable:
        """Why the server could not be asked, as a fresh error."""
        if not self.server.reads:
            return self.server.error
        if self.full:
            return self.no_room()
        if self.shut:
            return self._no_wait()
        if self._gets:
            return BackendUnavailable(f"{self.server.address.marked} does not answer")
        if self._error is None:
            return BackendUnavailable(f"no connection to {self.server.address.marked} in time")
        error = type(self._error)(self._error.detail)
        error.__cause__ = self._error.__cause__
        return error

    def no_room(self) -> TooManyLeases:
        """Why the server was not asked while it was full."""
        items = self.server.items
        if items.held >= items.limit:
            return TooManyLeases(f"lease limit ({items.limit}) reached on {self.server.address.marked}")
        held = items.of(self._line.tenant)
        return TooManyLeases(
            f"the tenant has {held} open leases on {self.server.address.marked}, its share of the limit "
            f"of {items.limit}"
        )

    def _no_wait(self) -> TooManyWaiters:
        waits = self.server.waits
        if waits.held >= waits.limit:
            return TooManyWaiters(f"limit of waiting gets ({waits.limit}) reached on {self.server.address.marked}")
        held = waits.of(self._line.tenant)
        return TooManyWaiters(
            f"the tenant has {held} waiting gets on {self.server.address.marked}, its share of the limit "
            f"of {waits.limit}"
        )

    def joined(self) -> None:
        """Somebody joined the line: a slice that is paused begins at once."""
        if self._retry is not None and self._sliced and not self._gets:
            self._cancel_retry()

    def permit(self, count: int) -> None:
        """So many more gets may be sent."""
        self._permits += count
        self.server.waits.take(self._line.tenant, count)
        self._permitted_at = self._line.loop.time()
        self._fill()

    def ask(self, caller: Caller) -> None:
        """Asks the server once for a waiter who does not wait."""
        self._questions.append(Question(caller, self._asked))
        self._fill()

    def revive(self) -> None:
        """The server is back: it may be asked again."""
        self._failures = 0
        self._cancel_retry()
        self._fill()

    def rest(self) -> None:
        """Nobody is in the line: nothing new is sent."""
        self._cancel_retry()
        self._questions.clear()
        self._drop_permits()
        for future in list(self._wanted):
            future.cancel()

    def withdraw(self) -> None:
        """Closes the standing gets; what they were about to bring goes back by that, the newest first."""
        gets, self._gets = self._gets, {}
        self.server.return_waits(self._line.tenant, len(gets))
        for connection in reversed(gets.values()):
            connection.close(ConnectionLostError("nobody waits any more", ours=True))

    def leave(self) -> None:
        """The server is no member any more: nothing of the line stays on it."""
        questions, self._questions = self._questions, deque()
        self.rest()
        self.withdraw()
        for question in questions:
            if question.caller.waiting:
                self._line.asked(
                    question.caller,
                    BackendUnavailable(f"{self.server.address.marked} was removed from the configuration"),
                )

    # What is missing, and connections for it

    @property
    def _sliced(self) -> bool:
        return self._early >= EARLY_ENDS

    def _unasked(self) -> int:
        if self._gather is not None:
            return 0
        return min(len(self._questions), (self.limit if self.bringing else 1) - self._asking)

    def _fill(self) -> None:
        if self.full:
            self._drop_permits()
            self._refuse(self.trouble())
        while (count := max(0, self._unasked()) + self._permits - len(self._wanted)) > 0:
            connection = self.server.checkout()
            if connection is None:
                for _ in range(count):
                    future = self.server.want(self._line.tenant)
                    self._wanted.add(future)
                    future.add_done_callback(self._granted)
                return
            self._use(connection)

    def _granted(self, future: asyncio.Future[Connection]) -> None:
        self._wanted.discard(future)
        if not future.cancelled():
            error = future.exception()
            if error is None:
                self._use(future.result())
            else:
                assert isinstance(error, BackendUnavailable)
                self._refused(error)
            self._go_on()
        else:
            self._line.tidy()

    def _use(self, connection: Connection) -> None:
        """Sends what is most wanted on the connection, or releases it."""
        if connection.state is State.IDLE and not self.full:
            if self._questions and self.server.crowded(self._line.tenant):
                self._refuse(self._no_wait())
            while self._unasked() > 0:
                question = self._questions.popleft()
                if question.caller.waiting:
                    self.server.waits.take(self._line.tenant)
                    self._asking += 1
                    self._asked += 1
                    then = partial(self._told, connection, question, self._asked)
                    connection.start(then, self.server.timeout_s, KestrelClient.take, self._line.key, 0)
                    return
            if self._permits:
                self._permits -= 1
                self._arm(connection)
                return
        self.server.release(connection)

    def _arm(self, connection: Connection) -> None:
        now = self._line.loop.time()
        longest_s = min(self._line.furthest - now, self.server.longest_wait_s, self._line.longest_wait_s)
        wait_ms = max(1, int(longest_s * 1000))
        get = Get(now, wait_ms / 1000)
        self._gets[get] = connection
        self._counters.waits_armed += 1
        then = partial(self._answered, connection, get)
        connection.start(then, get.wait_s + self.server.timeout_s, KestrelClient.take, self._line.key, wait_ms)

    # Answers

    def _answered(self, connection: Connection, get: Get, value: bytes | None, error: BaseException | None) -> None:
        withdrawn = self._gets.pop(get, None) is None
        self.server.return_waits(self._line.tenant, not withdrawn)
        if error is None:
            self._heard(connection, value)
            if value is None:
                self._ended(get)
        elif not withdrawn:
            self._counters.waits_cut += 1
            self._cut(error)
        self._go_on()

    def _told(
        self, connection: Connection, question: Question, number: int, value: bytes | None, error: BaseException | None
    ) -> None:
        self._asking -= 1
        self.server.return_waits(self._line.tenant, 1)
        caller = question.caller
        if error is None:
            self._heard(connection, value)
            if value is None:
                self._nothing(caller, number)
            elif caller.waiting:
                self._questions.append(question)  # the item was for somebody before him
        elif caller.waiting:
            self._error = not_asked(error, self.server.address)
            if question.again and isinstance(error, ConnectionLostError) and not error.timed_out:
                self._questions.append(Question(caller, question.came, again=False))
            else:
                self._line.asked(caller, self._error)
        self._go_on()

    def _go_on(self) -> None:
        self._fill()
        if self._line.parked:
            self._line.spread()
        self._line.tidy()

    def _nothing(self, caller: Caller, number: int) -> None:
        """The get that was sent as that number found nothing, which answers everybody who had come before it."""
        answered = [caller]
        while self._questions and self._questions[0].came < number:
            answered.append(self._questions.popleft().caller)
        if len(answered) > 1 and self._gather is None:
            self._gather = self._line.loop.call_later(GATHER_S, self._gathered)
        for each in answered:
            if each.waiting:
                self._line.asked(each, None)

    def _gathered(self) -> None:
        self._gather = None
        self._fill()

    def _heard(self, connection: Connection, value: bytes | None) -> None:
        self._answered_at = self._line.loop.time()
        self._failures = 0
        self._error = None
        self.bringing = value is not None
        self.empty = value is None
        if value is None:
            self.server.release(connection)
            return
        self._early = 0
        self._cancel_retry()
        self._counters.items_taken += 1
        full = self.full
        read = OpenRead(self.server, connection, self._counters, self._line.key, value, self._line.tenant)
        if full:
            self._line.keep(read)
        else:
            self._line.serve(read)

    def _ended(self, get: Get) -> None:
        """END: the time is over, or the server does not wait, or the queue was deleted."""
        if self._answered_at - get.sent_at >= get.wait_s / 2:
            self._early = 0
        elif self._retry is None:
            self._early += 1
            if self._sliced:
                self._retry_in(min(LONGEST_SLICE_S, FIRST_SLICE_S * SLICE_GROWTH ** (self._early - EARLY_ENDS)))

    def _refused(self, error: BackendUnavailable) -> None:
        """No connection could be had."""
        self._cut(error)
        self._refuse(error)

    def _refuse(self, error: Unavailable) -> None:
        """Tells everybody who asks once."""
        questions, self._questions = self._questions, deque()
        for question in questions:
            if question.caller.waiting:
                self._line.asked(question.caller, error)

    def _cut(self, error: BaseException) -> None:
        """What was cut at the same time counts once, and the first time is repeated at once."""
        self._error = not_asked(error, self.server.address)
        if isinstance(self._error, BackendRefused):
            self.server.look()
        if self._retry is None:
            self._failures += 1
            if self._failures > 1:
                self._retry_in(pause_s(self._failures - 1))

    def _retry_in(self, delay_s: float) -> None:
        if self._line.parked:
            self._drop_permits()
            self._retry = self._line.loop.call_later(delay_s, self._try_again)

    def _drop_permits(self) -> None:
        self.server.return_waits(self._line.tenant, self._permits)
        self._permits = 0

    def _try_again(self) -> None:
        self._retry = None
        self._go_on()

    def _cancel_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
