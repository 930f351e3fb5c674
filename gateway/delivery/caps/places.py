"""The places of one poll of several queues: those that it has, and those for which it waits.

A queue with a limit is open for the poll once it has a place there. It keeps a place until it ends, even while it waits
for a job of another queue.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final, Self

from gateway.delivery.caps.caps import CapPlace, Caps
from gateway.delivery.caps.counter import CapLimits, CapReason
from gateway.delivery.poll_limits import HeldPoll
from gateway.delivery.queues.catalog import Queue
from gateway.leases.lease import Lease

ANSWERED_S: Final = 0.05
"""The counter says within this time whether there is a place now."""


class CapPlaces:
    """Use as an asynchronous context manager. until_s: how long to wait for places (monotonic)."""

    def __init__(self, caps: Caps, queues: Iterable[Queue], until_s: float) -> None:
        self._caps = caps
        self._until_s = until_s
        self._limits = {queue: limits for queue in queues if (limits := caps.limits(queue)) is not None}
        self._waiting: set[asyncio.Task[None]] = set()
        self._places: dict[str, CapPlace] = {}
        self._reasons: dict[str, CapReason] = {}
        self.changed: Callable[[], None] = lambda: None
        """Called when a queue is open from now on."""

    async def __aenter__(self) -> Self:
        self._waiting = {asyncio.create_task(self._wait(*each)) for each in self._limits.items()}
        await self.answered()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)
        for place in self._places.values():
            place.done()

    async def answered(self) -> None:
        """Returns when the counter has answered for every queue, at the latest after ANSWERED_S."""
        if self._waiting:
            await asyncio.wait(self._waiting, timeout=ANSWERED_S)

    def open(self, queue: Queue) -> bool:
        """Whether the limits of the queue allow the poll a job now."""
        return queue not in self._limits or queue.key in self._places

    def reason(self, queue: Queue) -> CapReason | None:
        """Why there was no place in time."""
        return self._reasons.get(queue.key)

    def leased(self, queue: Queue, lease: Lease) -> None:
        """The poll has this lease of a job of the queue. The queue is not open for another one."""
        if (place := self._places.pop(queue.key, None)) is not None:
            place.leased(lease)

    async def _wait(self, queue: Queue, limits: CapLimits) -> None:
        given = await self._caps.place(queue, limits, HeldPoll(), max(0.0, self._until_s - time.monotonic()))
        if isinstance(given, CapPlace):
            self._places[queue.key] = given
            self.changed()
        else:
            self._reasons[queue.key] = given
