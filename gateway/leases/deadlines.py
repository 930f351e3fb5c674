"""When leases end and delayed nacks become due: a heap and one timer. Knows no settlement.

1. The timer is never later than the earliest entry, except that it pauses for DUE_PAUSE_S after it has fired; a call of
   `set` ends the pause. Each time it fires, it handles at most DUE_AT_ONCE leases.
2. An entry is valid while its lease has an open read, waits, and still has that deadline. Invalid entries are skipped.
   All are removed when there are about 1,000 more of them than open leases.
3. An error of `due` delays no other lease.
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
"""If many leases end at the same instant, this many are started at a time, with a pause: each takes a few commands."""
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
        """Uses the lease's deadline from now on, instead of an earlier one."""
        if len(self._heap) > 2 * len(self._leases) + 1024:
            self._heap = [(each.deadline_s, next(self._order), each) for each in self._leases.values()]
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, (lease.deadline_s, next(self._order), lease))
        self._arm()

    def first_s(self) -> float | None:
        """The earliest of all deadlines; monotonic."""
        while self._heap and not _counts(*self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def close(self) -> None:
        """Stops the timer; no further lease becomes due."""
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, not_before_s: float = 0.0) -> None:
        """Sets the timer to the earliest deadline; a timer that is set to an earlier instant stays."""
        if not self._heap:
            return
        due_s = max(self._heap[0][0], not_before_s)
        if self._timer is not None:
            if self._timer_due_s <= due_s:
                return
            self._timer.cancel()
        self._timer_due_s = due_s
        self._timer = asyncio.get_running_loop().call_later(max(0.0, due_s - time.monotonic()), self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        now_s = time.monotonic()
        try:
            for _ in range(DUE_AT_ONCE):
                if not self._heap or self._heap[0][0] > now_s:
                    break
                entry = heapq.heappop(self._heap)
                if _counts(*entry):
                    self._due(entry[2])
        finally:
            self._arm(now_s + DUE_PAUSE_S)


def _counts(due_s: float, _order: int, lease: Lease) -> bool:
    return lease.read is not None and lease.state in _WAITING and lease.deadline_s == due_s
