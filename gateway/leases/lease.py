"""One lease: its states, the legal moves between them, and how an ended one answers. No I/O, no clock.

    HELD -> SETTLING -> ACKED | NACKED | LOST | UNKNOWN
    HELD -> EXPIRED | LOST | DROPPED | RETURNED

Only HELD and SETTLING have an open read behind them; every other state is final.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from gateway.errors import (
    BackendRefused,
    GatewayError,
    LeaseConflict,
    LeaseExpired,
    LeaseForgotten,
    LeaseLost,
    QueueDeleted,
)


class OpenRead(Protocol):
    """One item set aside on a connection of its own; the item goes back when that connection ends."""

    data: bytes

    def on_lost(self, callback: Callable[[], None]) -> None: ...
    async def confirm(self) -> None: ...
    async def abort(self) -> None: ...
    def give_back(self) -> None: ...


class State(Enum):
    """held: the consumer's. settling: a settlement is under way. returned: given back because the client was gone."""

    HELD = "held"
    SETTLING = "settling"
    ACKED = "acked"
    NACKED = "nacked"
    EXPIRED = "expired"
    LOST = "lost"
    DROPPED = "dropped"
    RETURNED = "returned"
    UNKNOWN = "unknown"


MOVES: dict[State, frozenset[State]] = {
    State.HELD: frozenset({State.SETTLING, State.EXPIRED, State.LOST, State.DROPPED, State.RETURNED}),
    State.SETTLING: frozenset({State.ACKED, State.NACKED, State.LOST, State.UNKNOWN}),
}


@dataclass(slots=True, eq=False)
class Lease:
    """A job's claim by one consumer.

    deadline_s: monotonic. expires_at_s: the same instant as wall time, for people. latest_s: no extension goes beyond.
    settlement: the running settlement while SETTLING, so that a second request waits for the first one's end.
    """

    id: str
    queue: str
    key: str
    job_id: str | None
    attempt: int
    deadline_s: float
    expires_at_s: float
    latest_s: float
    read: OpenRead | None
    state: State = State.HELD
    settlement: asyncio.Future[BackendRefused | None] | None = field(default=None, repr=False)

    def move(self, to: State) -> None:
        """Takes one legal step; an illegal one is a defect and raises ValueError."""
        if to not in MOVES.get(self.state, frozenset()):
            raise ValueError(f"a lease cannot go from {self.state.value} to {to.value}")
        self.state = to


def answer_of(state: State, wanted: State) -> GatewayError | None:
    """What a settlement `wanted` gets to hear from a lease that has ended as `state`; None: it is done already."""
    if state is wanted:
        return None
    if state in (State.ACKED, State.NACKED):
        return LeaseConflict(f"the lease was {state.value} already")
    if state is State.EXPIRED:
        return LeaseExpired("the lease expired and its job is back on the queue")
    if state is State.DROPPED:
        return QueueDeleted("the queue was deleted and the job with it")
    if state is State.LOST:
        return LeaseLost("the connection to Kestrel was lost and the job is back on its queue")
    if state is State.RETURNED:
        return LeaseLost("the answer that carried the lease did not reach its client, and the job is back on its queue")
    return LeaseForgotten("the settlement was sent to Kestrel and no answer came")
