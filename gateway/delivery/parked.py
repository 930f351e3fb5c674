"""The polls that wait at this moment: how many there may be in all, of one tenant and of one queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from gateway.delivery.backend import Waiter
from gateway.delivery.catalog import Queue
from gateway.errors import TooManyWaiters


class Parked:
    """Counts polls in and out. limit, tenant_limit, queue_limit: most at once; the first counts them all."""

    def __init__(self, limit: int, *, tenant_limit: int, queue_limit: int) -> None:
        self._limit = limit
        self._tenant_limit = tenant_limit
        self._queue_limit = queue_limit
        self._waiters: set[Waiter] = set()
        self._tenants: Counter[str] = Counter()
        self._queues: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._waiters)

    def __iter__(self) -> Iterator[Waiter]:
        return iter(list(self._waiters))

    def check_room(self, queue: Queue) -> None:
        """Raises TooManyWaiters when no further poll of that queue may wait."""
        if len(self._waiters) >= self._limit:
            raise TooManyWaiters(f"{self._limit} polls are parked here already")
        if self._tenants[queue.tenant] >= self._tenant_limit:
            raise TooManyWaiters(f"the tenant has {self._tenant_limit} polls parked here already")
        if self._queues[queue.key] >= self._queue_limit:
            raise TooManyWaiters(f"the queue has {self._queue_limit} polls parked here already")

    def add(self, queue: Queue, waiter: Waiter) -> None:
        self._waiters.add(waiter)
        self._tenants[queue.tenant] += 1
        self._queues[queue.key] += 1

    def remove(self, queue: Queue, waiter: Waiter) -> None:
        self._waiters.discard(waiter)
        for counts, name in ((self._tenants, queue.tenant), (self._queues, queue.key)):
            counts[name] -= 1
            if not counts[name]:
                del counts[name]
