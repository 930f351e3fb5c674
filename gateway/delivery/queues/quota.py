"""The limit on a tenant's queues. Kestrel creates a queue when a command first names it, so requests are checked first.

A new queue counts from its first request, although Kestrel does not list it yet: the limit is exact within one worker.
Several workers that create queues at the same time may exceed it, each by the queues that the others created since the
last correction (gateway.delivery.queues.known). The cost of a request does not depend on how many queues other tenants
have: at the limit Kestrel is asked about the one queue, and about all queues only if that is cheap.

Fanout children count, too, when they are created. A request for a child never creates it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

from gateway.common.counted import counted
from gateway.delivery.backend import Backend
from gateway.delivery.queues.catalog import Queue
from gateway.delivery.queues.known import KnownQueues
from gateway.delivery.subscriptions.existing import ExistingChildren
from gateway.errors import BackendUnavailable, TooManyQueues

REFRESH_S: Final = 1.0
"""While new queues are created, queues created elsewhere are looked up at most this often."""
THERE: Final = nullcontext()
"""What a caller gets that may use a queue which exists."""


class Quota:
    """Lets a tenant use its queues, and create new ones up to `limit`. existing: the fanout children that were seen."""

    def __init__(self, backend: Backend, known: KnownQueues, limit: int) -> None:
        self._backend = backend
        self.existing = ExistingChildren(backend)
        self._known = known
        self._limit = limit
        self._lines: dict[str, _Line] = {}

    def has(self, queue: Queue) -> bool:
        """Whether `room_to_create` returns at once."""
        return queue.key not in self._lines and self._known.has(queue)

    def room_now(self, queue: Queue) -> AbstractContextManager[None] | None:
        """What `room` returns, if it need not look anything up; otherwise None."""
        there = self.existing.seen(queue) if queue.is_child else self.has(queue)
        return THERE if there else None

    async def room(self, queue: Queue) -> AbstractContextManager[None]:
        """Within the returned context the queue may be used: it exists or is being created.

        A child must exist. Raises TooManyQueues; for a child QueueNotFound, BackendUnavailable.
        """
        if queue.is_child:
            await self.existing.require(queue)
            return THERE
        return await self.room_to_create(queue)

    async def room_to_create(self, queue: Queue) -> AbstractContextManager[None]:
        """As `room`, also for a child that is to be created. Raises TooManyQueues.

        Callers for one queue continue in order of arrival, so polls keep their order. If no server can be
        asked, the queue may be used, too: the next step reports the error itself.
        """
        if self.has(queue):
            return THERE
        known = self._known
        with self._line(queue.key) as line:
            while line.asking is not None or known.has(queue):
                await line.answered()
                if known.has(queue):
                    return THERE
            line.asking = asyncio.Event()
            try:
                return await self._room(queue, time.monotonic())
            finally:
                line.asking.set()
                line.asking = None

    async def _room(self, queue: Queue, came_s: float) -> AbstractContextManager[None]:
        known = self._known
        if not await known.corrected():
            return THERE
        if not known.has(queue) and known.count(queue.tenant) >= self._limit and not await self._look(queue, came_s):
            return THERE
        if known.has(queue):
            return THERE
        if known.count(queue.tenant) >= self._limit:
            raise TooManyQueues(
                f"the tenant has {counted(known.count(queue.tenant), 'queue')}, which is the maximum; delete one first"
            )
        known.refresh(came_s - REFRESH_S)
        return known.making(queue)

    async def _look(self, queue: Queue, came_s: float) -> bool:
        """Asks Kestrel whether the queue exists, or which queues exist. Returns whether it answered."""
        if await self._known.corrected_if_soon(came_s):
            return True
        try:
            if await self._backend.missing(queue.key) is None:
                self._known.learn(queue)
        except BackendUnavailable:
            return False
        return True

    @contextmanager
    def _line(self, key: str) -> Iterator[_Line]:
        line = self._lines.setdefault(key, _Line())
        line.length += 1
        try:
            yield line
        finally:
            line.length -= 1
            if not line.length:
                del self._lines[key]


class _Line:
    """The callers for one queue. asking: set when the caller that asks Kestrel has its answer. length: all callers."""

    __slots__ = ("asking", "length")

    def __init__(self) -> None:
        self.asking: asyncio.Event | None = None
        self.length = 0

    async def answered(self) -> None:
        """Returns when the answer is there, in the order of the callers: all of them in one turn of the loop."""
        if self.asking is None:
            await asyncio.sleep(0)  # those who waited go first
        else:
            await self.asking.wait()
