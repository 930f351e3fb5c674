"""The values in the state of a queue's polls: waiters, gets, the queue on each server, and actions.

Plain values. gateway.kestrel.polls.decision makes the decisions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple, Protocol

from gateway.common.states import check_move

EARLY_ENDS: Final = 2
"""Number of waits in a row that ended early, after which the server counts as one that does not wait."""


class PolledItem(Protocol):
    """An item that is set aside. number: grows from each item to the next. lost: it went back by itself."""

    @property
    def number(self) -> int: ...
    @property
    def lost(self) -> bool: ...


class ServerFigures(NamedTuple):
    """What a server allows a queue now. delivers: whether it gives out items. item_room: how many more items it may
    hold for this worker, negative if it holds too many. get_room: how many more gets the queue may have there.
    """

    delivers: bool
    item_room: int
    get_room: int


class PolledServer(Protocol):
    """What the polls of a queue see of a server. All figures are for the queue's tenant.

    heard_at: the time of its last answer, of any kind. full_at: the time until which it was full last; infinite while
    it is full. longest_wait_s: of one wait. figures: those of a queue that has `others` gets there. take_place,
    return_place: count one get more, or less.
    """

    @property
    def heard_at(self) -> float: ...
    @property
    def full_at(self) -> float: ...
    @property
    def longest_wait_s(self) -> float: ...
    def figures(self, others: int) -> ServerFigures: ...
    def take_place(self) -> None: ...
    def return_place(self) -> None: ...


class WaiterPhase(Enum):
    """The states of a waiter. GIVEN: it has an item, but has not fetched it."""

    ASKING = "asking"
    WAITING = "waiting"
    GIVEN = "given"
    SERVED = "served"
    ENDED = "ended"

    __hash__ = object.__hash__


OPEN_PHASES: Final = frozenset({WaiterPhase.ASKING, WaiterPhase.WAITING, WaiterPhase.GIVEN})
"""The phases of a poll that has no result yet."""

MOVES: dict[WaiterPhase, frozenset[WaiterPhase]] = {
    WaiterPhase.ASKING: frozenset({WaiterPhase.WAITING, WaiterPhase.GIVEN, WaiterPhase.ENDED}),
    WaiterPhase.WAITING: frozenset({WaiterPhase.ASKING, WaiterPhase.GIVEN, WaiterPhase.ENDED}),
    WaiterPhase.GIVEN: frozenset({WaiterPhase.SERVED, WaiterPhase.ENDED, WaiterPhase.ASKING, WaiterPhase.WAITING}),
    WaiterPhase.SERVED: frozenset(),
    WaiterPhase.ENDED: frozenset(),
}


@dataclass(slots=True, eq=False)
class Waiter:
    """One poll. patience_s: how long servers may be silent before it ends, if no server has answered its takes.

    order: grows from each poll to the next, in the order of arrival. awaited: a caller is about to fetch the item.
    since: a sequence number; only takes with later numbers count for it.
    """

    joined_at: float
    deadline: float
    patience_s: float
    order: int = 0
    phase: WaiterPhase = WaiterPhase.ASKING
    ending: bool = False
    awaited: bool = False
    since: int = 0
    since_at: float = 0.0
    alone_until: float = 0.0
    item: PolledItem | None = None
    queue: ServerQueue | None = None

    def move(self, phase: WaiterPhase) -> None:
        """Makes one legal transition. Raises IllegalMoveError."""
        if phase not in MOVES[self.phase]:  # most moves are legal, and cost no call
            check_move("a waiter", MOVES, self.phase, phase)
        self.phase = phase


@dataclass(slots=True, eq=False)
class Get:
    """One get for the queue: a take, or a wait of `wait_s`. number: grows from each to the next, in the order of
    sending.

    placed: it counts among the gets that may be on the server.
    """

    queue: ServerQueue
    waits: bool
    placed: bool
    number: int
    begun_at: float
    sent_at: float = math.inf
    wait_s: float = 0.0

    @property
    def sent(self) -> bool:
        """Whether it is on the server; otherwise it needs a connection."""
        return self.sent_at < math.inf


@dataclass(slots=True, eq=False)
class ServerQueue:
    """The queue on one server. limit: of waits, and of takes at a time.

    delivers, item_room, get_room: the server's figures at the last look. proved: takes for waiters up to that number
    have found nothing. done: the same, or their takes were cut. empty: whether the last answer was empty. early: waits
    in a row that ended before their time. unseen: items that were stored and have not arrived.
    """

    server: PolledServer
    limit: int
    takes: dict[Get, None] = field(default_factory=dict)
    waits: dict[Get, None] = field(default_factory=dict)
    delivers: bool = False
    item_room: int = 0
    get_room: int = 0
    empty: bool = False
    asked_at: float = -math.inf
    answered_at: float = -math.inf
    proved: int = 0
    done: int = 0
    failures: int = 0
    cut_number: int = 0
    error: Exception | None = None
    early: int = 0
    retry_at: float = -math.inf
    unseen: int = 0
    stored_at: float = -math.inf
    check_at: float = math.inf

    def look(self) -> None:
        """Asks the server for its figures."""
        self.delivers, self.item_room, self.get_room = self.server.figures(len(self.takes) + len(self.waits))

    @property
    def under_way(self) -> int:
        """How many gets are on the server or about to be sent."""
        return len(self.takes) + len(self.waits)

    @property
    def last_at(self) -> float:
        """The time when it was last asked or last answered."""
        return max(self.asked_at, self.answered_at)

    @property
    def likely(self) -> bool:
        """Whether a take may find something."""
        return not self.empty and not self.waits

    @property
    def full(self) -> bool:
        """Whether the server may hold no further item."""
        return self.item_room <= 0

    @property
    def shut(self) -> bool:
        """Whether the server delivers items and may be sent no get for this queue, which has none there."""
        return self.delivers and (self.item_room <= 0 or (self.get_room <= 0 and not self.under_way))

    def wants(self, waiting: int, now: float) -> int:
        """How many more waits may be sent for `waiting` waiters."""
        missing = waiting - len(self.waits)
        if self.retry_at > now or missing <= 0:
            return 0
        limit = min(1 if self.early >= EARLY_ENDS else self.limit, self.item_room)
        return max(0, min(missing, limit - self.under_way, self.get_room))

    def take_room(self) -> int:
        """How many more takes it could be sent (rule 7)."""
        get_room = 1 if self.get_room <= 0 and self.waits and not self.takes else self.get_room
        return max(0, min(self.item_room - len(self.takes), get_room))


def usable(queues: Sequence[ServerQueue]) -> Sequence[ServerQueue]:
    """The queues whose server delivers items; if there is none, all that may be tried."""
    return [queue for queue in queues if queue.delivers] or queues


class EndReason(Enum):
    """Why a call ends without an item. EMPTY: at least one server was asked."""

    EMPTY = "empty"
    NO_SERVER = "no server is known"
    DOWN = "the server delivers nothing"
    FULL = "the server holds as many items as it may"
    CROWDED = "the server has no place for a get"
    SILENT = "the server does not answer"
    UNCONNECTED = "there was no connection in time"
    FAILED = "the get failed"

    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class Send:
    """Send the get; the queue counts it."""

    get: Get


@dataclass(frozen=True, slots=True)
class Close:
    """Close the get, or do not send it. It causes no further event."""

    get: Get


@dataclass(frozen=True, slots=True)
class Give:
    """Give the item to the waiter."""

    waiter: Waiter
    item: PolledItem


@dataclass(frozen=True, slots=True)
class End:
    """End the call without an item. asked, total: numbers of servers. queue: the server to which `why` refers."""

    waiter: Waiter
    why: EndReason
    asked: int
    total: int
    queue: ServerQueue | None


@dataclass(frozen=True, slots=True)
class Abort:
    """Put the item back on its queue by a command; `aborted` is called with the answer."""

    item: PolledItem
    queue: ServerQueue


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Give the item back at once, by closing its connection."""

    item: PolledItem


PollAction = Send | Close | Give | End | Abort | GiveBack
