"""One lease: its states, the legal transitions between them, and the answers of an ended lease. No I/O, no clock.

    HELD -> SETTLING -> ACKED | NACKED | REJECTED | EXPIRED | LOST | DROPPED | UNKNOWN | DELAYED
    DELAYED -> SETTLING | NACKED | DROPPED
    HELD -> LOST | DROPPED | RETURNED | DRAINED
    UNKNOWN -> ACKED | LOST | DROPPED        (the answer to an ack came late)

Only HELD and SETTLING have an open read, and DELAYED if the job cannot be copied; in every other state the lease has
ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, Protocol

from gateway.common.states import check_move
from gateway.errors import (
    GatewayError,
    LeaseConflict,
    LeaseExpired,
    LeaseForgotten,
    LeaseLost,
    QueueDeleted,
)


class OpenRead(Protocol):
    """One item that is set aside. lost: it went back, or was deleted, without this worker; deleted: with its queue."""

    data: bytes

    @property
    def key(self) -> str: ...
    @property
    def server(self) -> str: ...
    @property
    def lost(self) -> bool: ...
    @property
    def deleted(self) -> bool: ...
    def on_lost(self, callback: Callable[[], None]) -> None: ...
    async def verify(self) -> None: ...
    async def check(self) -> bool: ...
    async def expires_s(self) -> float | None:
        """When the server drops the item, wall time; None: never, or not known. Asks the server if it can tell."""

    async def confirm(self) -> None: ...
    def start_confirm(self, then: Callable[[GatewayError | None], None]) -> bool:
        """Starts to remove the item, and calls `then` with None or with what `confirm` raises.

        After OutcomeUnknown `then` may be called again. Returns False if it cannot start at once: then call `confirm`.
        """

    async def abort(self) -> None: ...
    async def abort_all(self, reads: Sequence[Any], /) -> None:
        """Puts items of its server back to the head, in their order; `reads` has them in the order of taking."""

    def give_back(self) -> None: ...
    @property
    def keeps_order(self) -> bool:
        """Whether several items that are given back keep their order."""

    async def first_of_batch(self) -> OpenRead:
        """The same item, as a read that has `more`. It replaces this one. Cancelled: the item may be back."""

    async def more(self, count: int, limit_bytes: int) -> Sequence[OpenRead]:
        """Takes up to `count` items that are ready behind this one, of `limit_bytes` together unless it is one.

        Waits for none. Empty if there is none now, or no room for one. Cancelled: they go back.
        """

    async def turn(self) -> None:
        """Returns when the items that its connection must settle before this one are decided."""


class Settlement:
    """A settlement in progress, and its end. A request that is cancelled while it waits changes nothing."""

    __slots__ = ("_over", "_refusal", "_waiting")

    def __init__(self) -> None:
        self._over = False
        self._refusal: GatewayError | None = None
        self._waiting: list[asyncio.Future[None]] = []

    async def result(self) -> GatewayError | None:
        """Returns when it is over: Kestrel's refusal, if it ended with one."""
        if not self._over:
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            await waiting
        return self._refusal

    def end(self, refusal: GatewayError | None) -> None:
        """The lease has ended."""
        self._over = True
        self._refusal = refusal
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)


class State(Enum):
    """held: by the consumer. settling: a settlement is in progress. delayed: nacked, and the job waits until it is due:
    on a holding queue, so that the lease has ended, or set aside as before.

    returned: given back because the client had disconnected. drained: given back because the gateway stopped.
    """

    HELD = "held"
    DELAYED = "delayed"
    SETTLING = "settling"
    ACKED = "acked"
    NACKED = "nacked"
    REJECTED = "rejected"
    EXPIRED = "expired"
    LOST = "lost"
    DROPPED = "dropped"
    RETURNED = "returned"
    DRAINED = "drained"
    UNKNOWN = "unknown"

    __hash__ = object.__hash__


MOVES: dict[State, frozenset[State]] = {
    State.HELD: frozenset({State.SETTLING, State.LOST, State.DROPPED, State.RETURNED, State.DRAINED}),
    State.DELAYED: frozenset({State.SETTLING, State.NACKED, State.DROPPED}),
    State.SETTLING: frozenset(
        {
            State.DELAYED,
            State.ACKED,
            State.NACKED,
            State.REJECTED,
            State.EXPIRED,
            State.LOST,
            State.DROPPED,
            State.UNKNOWN,
        }
    ),
    State.UNKNOWN: frozenset({State.ACKED, State.LOST, State.DROPPED}),
}


class Place(Enum):
    """The place of a job whose lease ended without an ack."""

    HEAD = "head"
    TAIL = "tail"
    DEAD = "dead"


class LeaseRecord(NamedTuple):
    """What is known of a lease at one instant, by its owner, and for a while after its end. Some hundred bytes.

    expires_at_s: wall time; for a delayed nack the time when it is due.
    place: where the job is, or will be after its delay; None while the consumer has it, and if it is gone.
    target: the requested place. jobs: the records of a batch's jobs, in their order; empty for a lease of one job.
    mixed: whether one request settled the jobs of the batch in different ways; only its owner knows that.
    """

    id: str
    queue: str
    job_id: str | None
    attempt: int
    expires_at_s: float
    state: State
    place: Place | None = None
    target: Place | None = None
    jobs: tuple[LeaseRecord, ...] = ()
    mixed: bool = False

    @property
    def as_asked(self) -> bool:
        """Whether the job is where the request wanted it."""
        return self.place is self.target

    @property
    def due_at_s(self) -> float | None:
        """When a delayed nack is due; None for other leases."""
        return self.expires_at_s if self.state is State.DELAYED else None


@dataclass(frozen=True, slots=True)
class Disposition:
    """How a lease ends without an ack.

    state: NACKED, REJECTED or EXPIRED; ACKED for a job of a batch. asked: the requested place; None: by the queue's
    policy. reason: for people. delay_s: how long the job waits before it is there; None: by the queue's policy.
    counted: whether this was an attempt; if not, the job goes to the head.
    """

    state: State
    asked: Place | None = None
    reason: str = ""
    delay_s: float | None = None
    counted: bool = True


@dataclass(frozen=True, slots=True)
class Moved:
    """Where a job is that left its consumer.

    due_at_s: wall time at which it will be there; None: it is there now. set_aside: until then it stays set aside for
    the lease, because no copy of it is safe; otherwise it is on a holding queue.
    """

    place: Place
    due_at_s: float | None = None
    set_aside: bool = False


class Mover(Protocol):
    """Moves one queue's jobs away from their consumers when a lease ends without an ack."""

    def target(self, disposition: Disposition) -> Place:
        """The requested place: by the request itself or by policy."""

    async def check(self, lease: Lease, disposition: Disposition) -> None:
        """Raises DelayBeyondExpiry if the job would expire before its delay is over, as far as that can be known."""

    async def move(self, lease: Lease, disposition: Disposition) -> Moved:
        """Moves the job. Raises LeaseLost, QueueDeleted, BackendRefused, OutcomeUnknown."""


@dataclass(slots=True, eq=False)
class Lease:
    """One consumer's claim to a job.

    known_by: identifies the job for counting attempts: its id, or the digest of a raw item.
    deadline_s: monotonic; for a delayed nack the time when it is due. expires_at_s: the same instant as wall time.
    begun_s: monotonic, when it was delivered. latest_s: no extension or delay goes beyond it.
    holder: the name of the key that took the job; empty without keys.
    settlement: the running settlement while SETTLING, so that a second request can wait for its end.
    disposition: how it ends, while DELAYED or SETTLING without an ack.
    place: where the job is, once NACKED, REJECTED or EXPIRED, and once DELAYED if it is on a holding queue.
    target: the requested place. batch_id: of the batch to which the job belongs; empty if it has a lease of its own.
    """

    id: str
    tenant: str
    queue: str
    key: str
    job_id: str | None
    known_by: str
    attempt: int
    deadline_s: float
    expires_at_s: float
    latest_s: float
    begun_s: float
    read: OpenRead | None
    mover: Mover | None
    state: State = State.HELD
    holder: str = ""
    settlement: Settlement | None = field(default=None, repr=False)
    disposition: Disposition | None = None
    place: Place | None = None
    target: Place | None = None
    batch_id: str = ""

    def move(self, to: State) -> None:
        """Makes one legal transition. An illegal one is a defect and raises IllegalMoveError."""
        if to not in MOVES.get(self.state, ()):  # most moves are legal, and cost no call
            check_move("a lease", MOVES, self.state, to)
        self.state = to

    def plan(self, disposition: Disposition) -> None:
        """Sets how the lease ends without an ack, and the place that its job should get."""
        assert self.mover is not None
        self.disposition = disposition
        self.target = self.mover.target(disposition)

    def record(self) -> LeaseRecord:
        """What is known of the lease now."""
        set_aside = self.place is None and self.state is State.DELAYED  # no copy is safe, so it goes to the head
        place = Place.HEAD if set_aside else self.place
        return LeaseRecord(
            self.id, self.queue, self.job_id, self.attempt, self.expires_at_s, self.state, place, self.target
        )


def settlement_error(state: State, wanted: State) -> GatewayError | None:
    """The error for a settlement `wanted` of a lease that has ended as `state`; None: it is already done."""
    if state is wanted or (state is State.DELAYED and wanted is State.NACKED):
        return None
    if state in (State.ACKED, State.NACKED, State.REJECTED, State.DELAYED):
        word = State.NACKED.value if state is State.DELAYED else state.value
        return LeaseConflict(f"the lease was already {word}")
    if state is State.EXPIRED:
        return LeaseExpired("the lease expired, and the job is back on its queue")
    if state is State.DROPPED:
        return QueueDeleted()
    if state is State.LOST:
        return LeaseLost("the connection to Kestrel was lost, and the job is back on its queue")
    if state is State.RETURNED:
        return LeaseLost("the answer with the lease did not reach the client, and the job is back on its queue")
    if state is State.DRAINED:
        return LeaseLost("the gateway that held the lease stopped, and the job is back on its queue")
    return LeaseForgotten("the settlement was sent to Kestrel, but no answer came")
