"""Starts, drains and closes the parts of one worker, each in the order that the parts need.

The order of the shutdown; each step relies on the ones before it:
1. waiting polls are answered empty and no job is delivered; 2. leases are settled until none is left or the grace ends;
3. requests in progress finish (the server waits for them); 4. delayed jobs are no longer moved, and commands of other
workers no longer accepted; 5. jobs under lease go back to their queues; 6. the connections to Kestrel close; 7. the
file of idempotency keys closes; 8. the last spans are sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gateway.delivery.caps.link import CapLink
from gateway.delivery.control.control import Control
from gateway.delivery.delay.watch import DelayedJobs
from gateway.delivery.figures.gatherer import Gatherer
from gateway.delivery.idempotency.idempotent_enqueue import Idempotency
from gateway.delivery.queues.unreachable import UnreachableQueues
from gateway.delivery.receive import Receiver
from gateway.delivery.streams.open_streams import OpenStreams
from gateway.forwarding.replicas import Replicas
from gateway.forwarding.router import LeaseRouter
from gateway.forwarding.workers import WorkerLinks, WorkerServer
from gateway.kestrel.client import Kestrel
from gateway.leases.ids import LeaseIds
from gateway.leases.registry import Registry

if TYPE_CHECKING:  # it imports an optional dependency
    from gateway.traces.export import SpanExport

log = logging.getLogger(__name__)


class Drain:
    """Steps 1 and 2 of the shutdown. grace_s: the time that the whole shutdown has."""

    def __init__(
        self, receiver: Receiver, streams: OpenStreams, gatherer: Gatherer, registry: Registry, grace_s: float
    ) -> None:
        self._receiver = receiver
        self._streams = streams
        self._gatherer = gatherer
        self._registry = registry
        self._grace_s = grace_s
        self._grace_ends = math.inf  # monotonic; known once the drain has begun
        self._changed = asyncio.Event()

    def begin(self) -> None:
        """The gateway is no longer ready: waiting polls are answered, and no job is delivered."""
        self._grace_ends = min(self._grace_ends, time.monotonic() + self._grace_s)
        self._receiver.drain()
        self._streams.drain()
        self._gatherer.close()

    def left_s(self) -> float:
        """What is left of the grace; infinite until the drain begins."""
        return self._grace_ends - time.monotonic()

    def changed(self) -> None:
        """A lease or a settlement has ended."""
        self._changed.set()

    async def ended(self) -> None:
        """Returns when no consumer holds a lease and no settlement is in progress. Does not wait for delayed nacks."""
        self._registry.leases.on_end(lambda _: self.changed())
        while self._held():
            self._changed.clear()
            await self._changed.wait()

    def _held(self) -> int:
        figures = self._registry.leases.statistics()
        return figures.open - figures.delayed


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifespan:
    """What runs beside the requests. tasks: the group of every task. unreachable: only in the first worker. spans: None
    without traces.

    longest_lease_s: how long lease ids of the old form are accepted after the start.
    """

    tasks: asyncio.TaskGroup
    drain: Drain
    kestrel: Kestrel
    control: Control
    cap_link: CapLink
    ids: LeaseIds
    registry: Registry
    router: LeaseRouter
    worker_server: WorkerServer
    worker_links: WorkerLinks
    replicas: Replicas | None
    unreachable: UnreachableQueues | None
    delayed_jobs: DelayedJobs
    gatherer: Gatherer
    idempotency: Idempotency
    spans: SpanExport | None
    longest_lease_s: float

    @contextlib.asynccontextmanager
    async def run(self, _app: Any) -> AsyncIterator[None]:
        """Requests may be served within the context."""
        async with self.tasks:
            if self.spans is not None:
                self.spans.start()
            await self.kestrel.start()
            await self.control.start()
            await self.cap_link.start()
            await self.worker_server.start()
            watching = self.tasks.create_task(self.unreachable.watch()) if self.unreachable is not None else None
            moving = self.tasks.create_task(self.delayed_jobs.run())
            gathering = self.tasks.create_task(self.gatherer.run())
            asyncio.get_running_loop().call_later(self.longest_lease_s, self.ids.refuse_old_form)
            try:
                yield
            finally:
                self.drain.begin()
                gathering.cancel()
                if watching is not None:
                    watching.cancel()
                self.delayed_jobs.close()
                await moving
                await self.worker_server.close()
                await self.worker_links.close()
                if self.replicas is not None:
                    self.replicas.close()
                self.registry.close()
                log.info("leases: %s", self.registry.leases.statistics())
                log.info("lease commands: %s", self.router.statistics)
                await self.control.close()
                await self.cap_link.close()
                await self.kestrel.close()
                await self.idempotency.close()
                if self.spans is not None:
                    await self.spans.close(self.drain.left_s())
