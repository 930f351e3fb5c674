"""How leases ended, for a while, so that a repeated settlement gets the same answer. Keeps no job and no connection."""

from __future__ import annotations

import time
from collections import deque

from gateway.leases.lease import Lease, LeaseRecord


class EndedLeases:
    """Remembers at most `limit` ended leases, each for `memory_s` seconds; the oldest is forgotten first."""

    def __init__(self, *, memory_s: float, limit: int) -> None:
        self._memory_s = memory_s
        self._limit = limit
        self._ended: dict[str, LeaseRecord] = {}
        self._order: deque[tuple[float, str]] = deque()  # when each ended, monotonic, and its id

    def __len__(self) -> int:
        return len(self._ended)

    def add(self, lease: Lease) -> None:
        """Remembers the lease, which has ended, with its state."""
        self._ended[lease.id] = lease.record()
        self._order.append((time.monotonic(), lease.id))
        self._forget()

    def replace(self, lease: Lease) -> None:
        """The state of an ended lease is known better now."""
        if lease.id in self._ended:
            self._ended[lease.id] = lease.record()

    def get(self, lease_id: str) -> LeaseRecord | None:
        self._forget()
        return self._ended.get(lease_id)

    def _forget(self) -> None:
        oldest_s = time.monotonic() - self._memory_s
        order = self._order
        while order and (order[0][0] <= oldest_s or len(order) > self._limit):
            del self._ended[order.popleft()[1]]
