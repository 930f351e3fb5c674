"""When leases end, and delayed nacks are due: a heap and one timer. Knows no settlement.

1. The timer is set to the earliest entry or before it.
2. An entry counts while its lease is open and still has that deadline; others are passed over, and swept out when
   they are more than the rest.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable, Mapping

from gateway.leases.lease import Lease, State

DUE_AT_ONCE = 16
DUE_PAUSE_S = 0.002
"""Where many leases end at one instant so many are begun at a time, with such a pause: each is a few commands."""
_WAITING = frozenset({State.HELD, State.DELAYED})


class Deadlines:
    """Calls `due` with each lease whose deadline has come. leases: the open ones, by id."""

    def __init__(self, leases: Mapping[str, Lease], due: Callable[[Lease], None]) -> None:
        self._leases = leases
        self._due = due
        self._heap: list[tuple[float, int, Lease]] = []
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_s = 0.0

    def __len__(self) -> int:
        return len(self._heap)

    def set(self, lease: Lease) -> None:
        """The lease's deadline counts from now on, and none that it had before."""
        if len(self._heap) > 2 * len(self._leases) + 1024:
            self._heap = [(each.deadline_s, next(self._order), each) for each in self._leases.values()]
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, (lease.deadline_s, next(self._order), lease))
        self._arm()

    def first_s(self) -> float | None:
        """The earliest deadline of all; monotonic."""
        while self._heap and not _counts(*self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def close(self) -> None:
        """Nothing is due any more."""
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, not_before_s: float = 0.0) -> None:
        """Sets the timer to the earliest deadline; one that is set to an earlier instant stays."""
        if not self._heap:
            return
        due_s = max(self._heap[0][0], not_before_s)
        if self._timer is not None:
            if self._timer_due_s <= due_s:
                return
            self._timer.cancel()
        self._timer_due_s = due_s
        self._timer = asyncio.get_running_loop().call_later(max(0.0, due_s - time.monotonic()), self._ring)

    def _ring(self) -> None:
        self._timer = None
        now_s = time.monotonic()
        for _ in range(DUE_AT_ONCE):
            if not self._heap or self._heap[0][0] > now_s:
                break
            entry = heapq.heappop(self._heap)
            if _counts(*entry):
                self._due(entry[2])
        self._arm(now_s + DUE_PAUSE_S)


def _counts(due_s: float, _order: int, lease: Lease) -> bool:
    return lease.state in _WAITING and lease.deadline_s == due_s
