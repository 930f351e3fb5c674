"""Counts the places of queues with a limit, for all workers of a gateway. No I/O and no clock: the time is an argument.

A worker needs a place for each poll of such a queue. A place is ASKED for, then POLLING, then a LEASE if the poll got a
job. A place is named by its worker and a number.

1. Places are given in the order in which they were asked for, whichever worker asks.
2. At most `max_in_flight` places of a queue are POLLING or a LEASE.
3. With a `rate` there are tokens: `rate` more in a second, up to those of BURST_S, at least two. A lease uses one up,
   and there are never more places POLLING than tokens.
4. A worker that ends, however it ends, has no places: what it held is back on Kestrel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

BURST_S: Final = 0.1
"""Tokens for this long make up for consumers that come a little late. So many jobs may be delivered at once."""

MARGIN: Final = 1e-6
"""Tokens that may be missing because of rounding."""


@dataclass(frozen=True, slots=True)
class CapLimits:
    """The limits of a queue; None: no limit. rate: jobs in a second."""

    max_in_flight: int | None = None
    rate: float | None = None

    @property
    def burst(self) -> float:
        """The most tokens at a time."""
        return max(2.0, (self.rate or 0.0) * BURST_S)


class CapReason(Enum):
    """Why no place was given. OTHERS: other polls of the queue wait, and the limits are not reached."""

    MAX_IN_FLIGHT = "max_in_flight"
    RATE = "rate"
    OTHERS = ""


class PlaceId(NamedTuple):
    """A place: its worker, and its number there."""

    holder: str
    number: int


class CapReply(NamedTuple):
    """The answer to one ASKED place. reason: None if it was given."""

    place: PlaceId
    reason: CapReason | None


class _PlaceState(Enum):
    ASKED = "asked"
    POLLING = "polling"
    LEASE = "lease"

    __hash__ = object.__hash__


class _CappedQueue:
    """The places of one queue, in the order of asking within each state."""

    def __init__(self, now: float) -> None:
        self.limits = CapLimits()
        self.places: dict[_PlaceState, dict[PlaceId, None]] = {state: {} for state in _PlaceState}
        self._tokens = 1.0
        self._at = now

    @property
    def unused(self) -> bool:
        return not any(self.places.values())

    def set_limits(self, limits: CapLimits, now: float) -> None:
        if limits != self.limits:
            self._refill(now)
            self.limits = limits
            self._refill(now)

    def used_token(self, now: float) -> None:
        self._refill(now)
        self._tokens -= 1

    def next_place(self, now: float) -> PlaceId | float:
        """The place to give now, or the time at which one can be given; infinite if only an event changes that."""
        asked, polling = self.places[_PlaceState.ASKED], self.places[_PlaceState.POLLING]
        limits = self.limits
        if not asked or (
            limits.max_in_flight is not None
            and len(polling) + len(self.places[_PlaceState.LEASE]) >= limits.max_in_flight
        ):
            return math.inf
        if limits.rate is not None:
            self._refill(now)
            missing = len(polling) + 1 - self._tokens
            if missing > MARGIN:
                return now + missing / limits.rate if len(polling) + 1 <= limits.burst else math.inf
        return next(iter(asked))

    def reason(self, now: float) -> CapReason:
        """Why no place is given now."""
        limits = self.limits
        if limits.max_in_flight is not None and len(self.places[_PlaceState.LEASE]) >= limits.max_in_flight:
            return CapReason.MAX_IN_FLIGHT
        if limits.rate is not None:
            self._refill(now)
            if self._tokens < 1:
                return CapReason.RATE
        return CapReason.OTHERS

    def full_at(self, now: float) -> float:
        """When it has as many tokens as it may: then it need not be remembered."""
        if self.limits.rate is None:
            return now
        self._refill(now)
        missing = self.limits.burst - self._tokens
        return now + missing / self.limits.rate if missing > MARGIN else now

    def _refill(self, now: float) -> None:
        if self.limits.rate is not None:
            self._tokens = min(self.limits.burst, self._tokens + (now - self._at) * self.limits.rate)
        self._at = now


class CapCounter:
    """The places of all queues with a limit. Each event returns the replies that it causes."""

    def __init__(self) -> None:
        self._queues: dict[str, _CappedQueue] = {}
        self._states: dict[PlaceId, tuple[str, _PlaceState]] = {}
        self.next_at = math.inf
        """When `due` is to be called."""

    def __len__(self) -> int:
        return len(self._states)

    def ask(self, place: PlaceId, key: str, limits: CapLimits, now: float) -> list[CapReply]:
        """The worker wants a place of the queue."""
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _CappedQueue(now)
        queue.set_limits(limits, now)
        self._move(place, key, _PlaceState.ASKED)
        return self._given(key, now)

    def stop(self, place: PlaceId, now: float) -> list[CapReply]:
        """The worker no longer waits; it gets a reply unless it has one."""
        key, state = self._states.get(place, ("", None))
        if state is not _PlaceState.ASKED:
            return []
        reason = self._queues[key].reason(now)
        return [CapReply(place, reason), *self.done(place, now)]

    def leased(self, place: PlaceId, now: float) -> list[CapReply]:
        """The place's poll has got a job."""
        key, state = self._states.get(place, ("", None))
        if state is not _PlaceState.POLLING:
            return []
        self._queues[key].used_token(now)
        self._move(place, key, _PlaceState.LEASE)
        return self._given(key, now)

    def hold(self, place: PlaceId, key: str, limits: CapLimits, now: float) -> list[CapReply]:
        """The worker has a lease from the time before the queue had a limit."""
        queue = self._queues.setdefault(key, _CappedQueue(now))
        queue.set_limits(limits, now)
        self._move(place, key, _PlaceState.LEASE)
        return self._given(key, now)

    def limit(self, key: str, limits: CapLimits, now: float) -> list[CapReply]:
        """The limits of the queue have changed."""
        queue = self._queues.get(key)
        if queue is None:
            return []
        queue.set_limits(limits, now)
        return self._given(key, now)

    def done(self, place: PlaceId, now: float) -> list[CapReply]:
        """The place is free: its poll got no job, or its lease has ended."""
        if place not in self._states:
            return []
        key, state = self._states.pop(place)
        del self._queues[key].places[state][place]
        return self._given(key, now)

    def gone(self, holder: str, now: float) -> list[CapReply]:
        """The worker has ended (rule 4)."""
        keys = set()
        for place, (key, state) in list(self._states.items()):
            if place.holder == holder:
                del self._states[place]
                del self._queues[key].places[state][place]
                keys.add(key)
        return [reply for key in keys for reply in self._given(key, now)]

    def due(self, now: float) -> list[CapReply]:
        """Tokens have come."""
        self.next_at = math.inf
        return [reply for key in list(self._queues) for reply in self._given(key, now)]

    def _given(self, key: str, now: float) -> list[CapReply]:
        return list(self._give(key, now))

    def _give(self, key: str, now: float) -> Iterator[CapReply]:
        queue = self._queues[key]
        while isinstance(found := queue.next_place(now), PlaceId):
            self._move(found, key, _PlaceState.POLLING)
            yield CapReply(found, None)
        if queue.unused:
            found = queue.full_at(now)
            if found <= now:
                del self._queues[key]
                return
        self.next_at = min(self.next_at, found)

    def _move(self, place: PlaceId, key: str, state: _PlaceState) -> None:
        if place in self._states:
            _, before = self._states[place]
            del self._queues[key].places[before][place]
        self._states[place] = key, state
        self._queues[key].places[state][place] = None
