"""The polls that are waiting now, and the limits for all of them, for one tenant and for one queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from gateway.common.counted import counted
from gateway.common.shares import WHOLE, Shares
from gateway.coverage import Coverage
from gateway.delivery.backend import Poll
from gateway.delivery.queues.catalog import Queue
from gateway.errors import TooManyWaiters


class HeldPoll:
    """A poll that does not wait on a server: its queue delivers nothing now. ended: it is not to go on."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._callback: Callable[[], None] | None = None
        self.ended = False
        self.coverage: Coverage | None = None

    @property
    def woken(self) -> bool:
        """Whether the queue has changed, or the poll has ended."""
        return self._event.is_set()

    async def result(self) -> None:
        """Returns when it is woken."""
        await self._event.wait()

    def on_woken(self, callback: Callable[[], None]) -> None:
        """Calls `callback` when it is woken; at once if it is."""
        self._callback = callback
        if self.woken:
            callback()

    def wake(self) -> None:
        """The queue has changed; the poll is to look again."""
        self._event.set()
        if self._callback is not None:
            self._callback()

    def cancel(self) -> None:
        """Ends the poll: its consumer is gone, or the gateway stops."""
        self.ended = True
        self.wake()


class PollLimits:
    """Counts polls in and out. limit, tenant_limit, queue_limit: the most at a time; the first is for all polls.

    share: the part of `limit` that one tenant may take.
    """

    def __init__(self, limit: int, *, tenant_limit: int, queue_limit: int, share: float = WHOLE) -> None:
        self.shares = Shares(limit, share)
        self._tenant_limit = tenant_limit
        self._queue_limit = queue_limit
        self._waiters: set[Poll] = set()
        self._queues: dict[str, dict[Poll, Queue]] = {}

    def __len__(self) -> int:
        return len(self._waiters)

    def __iter__(self) -> Iterator[Poll]:
        return iter(list(self._waiters))

    def of(self, key: str) -> list[Poll]:
        """The polls of the queue with the key."""
        return list(self._queues.get(key, ()))

    def check_room(self, queue: Queue) -> None:
        """Raises TooManyWaiters if no further poll of the queue may wait."""
        shares = self.shares
        held = shares.of(queue.tenant)
        if held >= self._tenant_limit:
            limit = counted(self._tenant_limit, "waiting poll")
            raise TooManyWaiters(f"the tenant has reached its limit of {limit} on this worker; try again later")
        if not shares.admits(queue.tenant):
            if shares.held >= shares.limit:
                limit = counted(shares.limit, "waiting poll")
                raise TooManyWaiters(f"this worker has reached its limit of {limit}; try again later")
            polls = counted(held, "waiting poll")
            raise TooManyWaiters(
                f"the tenant has {polls} on this worker, its share of the limit of {shares.limit}; try again later"
            )
        if len(self._queues.get(queue.key, ())) >= self._queue_limit:
            limit = counted(self._queue_limit, "waiting poll")
            raise TooManyWaiters(f"the queue has reached its limit of {limit} on this worker; try again later")

    @property
    def keys(self) -> list[str]:
        """The keys of all queues with a waiting poll."""
        return list(self._queues)

    @property
    def queues(self) -> list[Queue]:
        """Every queue with a waiting poll."""
        return [
            queue for polls in self._queues.values() for queue in {each.key: each for each in polls.values()}.values()
        ]

    def by_queue(self, key: str) -> list[tuple[Poll, Queue]]:
        """The polls of the queue with the key, each with the queue as its request named it."""
        return list(self._queues.get(key, {}).items())

    def add(self, queue: Queue, waiter: Poll) -> None:
        self._waiters.add(waiter)
        self.shares.take(queue.tenant)
        self._queues.setdefault(queue.key, {})[waiter] = queue

    def remove(self, queue: Queue, waiter: Poll) -> None:
        self._waiters.discard(waiter)
        self.shares.give_back(queue.tenant)
        self._leave(queue, waiter)

    @contextmanager
    def several(self, waiter: Poll, queues: Mapping[Queue, Poll]) -> Iterator[None]:
        """Within the context `waiter` waits for several queues of a tenant: it counts once, and for each queue.

        queues: each with the poll that is of that queue; see `by_queue`.
        """
        tenant = next(iter(queues)).tenant
        self._waiters.add(waiter)
        self.shares.take(tenant)
        for queue, poll in queues.items():
            self._queues.setdefault(queue.key, {})[poll] = queue
        try:
            yield
        finally:
            self._waiters.discard(waiter)
            self.shares.give_back(tenant)
            for queue, poll in queues.items():
                self._leave(queue, poll)

    def _leave(self, queue: Queue, poll: Poll) -> None:
        polls = self._queues[queue.key]
        del polls[poll]
        if not polls:
            del self._queues[queue.key]
