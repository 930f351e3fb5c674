"""The polls that are waiting now, and the limits for all of them, for one tenant and for one queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from gateway.delivery.backend import Poll
from gateway.delivery.queues.catalog import Queue
from gateway.errors import TooManyWaiters
from gateway.fairness.shares import WHOLE, Shares


class PollLimits:
    """Counts polls in and out. limit, tenant_limit, queue_limit: the most at a time; the first is for all polls.

    share: the part of `limit` that one tenant may take.
    """

    def __init__(self, limit: int, *, tenant_limit: int, queue_limit: int, share: float = WHOLE) -> None:
        self.shares = Shares(limit, share)
        self._tenant_limit = tenant_limit
        self._queue_limit = queue_limit
        self._waiters: dict[Poll, str] = {}
        self._queues: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._waiters)

    def __iter__(self) -> Iterator[Poll]:
        return iter(list(self._waiters))

    def of(self, key: str) -> list[Poll]:
        """The polls of the queue with the key."""
        return [waiter for waiter, of in self._waiters.items() if of == key] if key in self._queues else []

    def check_room(self, queue: Queue) -> None:
        """Raises TooManyWaiters if no further poll of the queue may wait."""
        shares = self.shares
        held = shares.of(queue.tenant)
        if held >= self._tenant_limit:
            raise TooManyWaiters(f"the tenant has {self._tenant_limit} waiting polls on this worker, its limit")
        if not shares.admits(queue.tenant):
            if shares.held >= shares.limit:
                raise TooManyWaiters(f"{shares.limit} polls are waiting on this worker, its limit")
            raise TooManyWaiters(
                f"the tenant has {held} waiting polls on this worker, its share of the limit of {shares.limit}"
            )
        if self._queues[queue.key] >= self._queue_limit:
            raise TooManyWaiters(f"the queue has {self._queue_limit} waiting polls on this worker, its limit")

    def add(self, queue: Queue, waiter: Poll) -> None:
        self._waiters[waiter] = queue.key
        self.shares.take(queue.tenant)
        self._queues[queue.key] += 1

    def remove(self, queue: Queue, waiter: Poll) -> None:
        self._waiters.pop(waiter, None)
        self.shares.give_back(queue.tenant)
        self._queues[queue.key] -= 1
        if not self._queues[queue.key]:
            del self._queues[queue.key]
