"""The insides of a gateway that move delayed jobs, over real servers, on a clock that the test moves."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

from gateway.config.policies import Format, Policies, Policy, Table
from gateway.delivery.delay.clock import Clock
from gateway.delivery.delay.held_job_mover import HeldJobMover
from gateway.delivery.delay.holding import HoldingQueues
from gateway.delivery.delay.watch import DelayedJobs
from gateway.delivery.ordered_queues import OrderedQueues
from gateway.delivery.publish import Publisher
from gateway.delivery.queues.catalog import Catalog, Queue
from gateway.delivery.queues.known import KnownQueues
from gateway.delivery.queues.quota import Quota
from gateway.envelope.due import milliseconds
from gateway.envelope.write import Item
from gateway.fairness.turns import Turns
from gateway.kestrel.client import Kestrel
from gateway.names.namespace import Namespace
from tests.kestrel.support import client

_numbers = itertools.count()


class JumpingClock(Clock):
    """Time that passes while everything waits, and only then: it jumps to the end of the shortest wait.

    Commands take no time on it, so a month passes in the time of its commands. busy: whether a command is in progress
    while so many wait.
    stopped: no time passes.
    """

    busy: Callable[[int], bool]
    stopped = False

    def __init__(self) -> None:
        self.began_s = self.wall_now_s = time.time()
        self.now_s = 1000.0
        self._waits: list[tuple[float, int, asyncio.Event, asyncio.Event]] = []

    def wall_s(self) -> float:
        return self.wall_now_s

    def monotonic_s(self) -> float:
        return self.now_s

    def step(self, seconds: float) -> None:
        """The wall clock is set."""
        self.wall_now_s += seconds

    async def wait(self, event: asyncio.Event, limit_s: float) -> None:
        over = asyncio.Event()
        heapq.heappush(self._waits, (self.now_s + limit_s, next(_numbers), over, event))
        waits = [asyncio.ensure_future(each.wait()) for each in (event, over)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
            over.set()

    async def run(self) -> None:
        """Lets time pass until it is cancelled."""
        while True:
            await asyncio.sleep(0.001)
            self._waits = [each for each in self._waits if not each[2].is_set()]
            heapq.heapify(self._waits)
            idle = sum(not event.is_set() for *_, event in self._waits)
            if self._waits and not self.stopped and not self.busy(idle):
                at_s, _, over, _ = heapq.heappop(self._waits)
                gone_s = max(0.0, at_s - self.now_s)
                self.now_s += gone_s
                self.wall_now_s += gone_s
                over.set()


class DelayRig:
    """One worker's delayed jobs. name: of the worker."""

    def __init__(self, kestrel: Kestrel, clock: Clock, policies: dict[str, Policy], name: str) -> None:
        self.kestrel = kestrel
        self.clock: Any = clock
        namespace = Namespace()
        self.catalog = Catalog(namespace, Policies(tuple(Table("", each, policies[each]) for each in policies)))
        quota = Quota(kestrel, KnownQueues(kestrel, self.catalog, Turns()), 1000)
        self.holding = HoldingQueues(kestrel, namespace, name, clock)
        self.mover = HeldJobMover(kestrel, self.catalog, quota, self.holding)
        self.jobs = DelayedJobs(kestrel.each_member, self.holding, self.mover)
        self.publisher = Publisher(kestrel, quota, self.holding, OrderedQueues())

    def queue(self, name: str) -> Queue:
        return self.catalog.queue("", name)

    async def put(self, name: str, delay_s: float, data: bytes = b"job", expires_s: float | None = None) -> int:
        """Enqueues the bytes as they are; when the job is due, in milliseconds."""
        queue = replace(self.queue(name), policy=Policy(format=Format.RAW))
        self.clock.stopped = True
        due_ms = milliseconds(self.clock.wall_s() + delay_s)
        await self.publisher.enqueue(queue, Item(str(next(_numbers)), data, expires_s, due_ms=due_ms))
        self.clock.stopped = False
        return due_ms

    @property
    def loops(self) -> int:
        """How many loops wait while nothing happens."""
        return 1 + len(self.jobs._watches)

    @property
    def busy(self) -> bool:
        return any(each._busy for each in self.jobs._watches.values())

    async def taken(self, key: str) -> list[bytes]:
        """Everything that is on the queue now, in order."""
        found = []
        while (read := await self.kestrel.wait(key, 0).result()) is not None:
            found.append(read.data)
            await read.confirm()
        return found

    async def arrival(self, key: str) -> float:
        """The time of the clock when the job of `put` is on the queue, from which it is taken."""
        read = await self.kestrel.wait(key, 60).result()
        assert read is not None, f"no job on {key}"
        at_s = self.clock.wall_s()
        assert read.data == b"job"
        await read.confirm()
        return at_s

    async def items(self, key: str) -> int:
        stats = (await self.kestrel.queue_stats(key)).queues.get(key)
        return stats.items if stats is not None else 0

    async def held(self) -> int:
        """How many jobs are on the holding queues."""
        stats = await self.kestrel.queue_stats(*self.holding.keys)
        return sum(each.items + each.open_reads for each in stats.queues.values())


@contextlib.asynccontextmanager
async def delay_rig(
    *addresses: str, clock: Clock | None = None, policies: dict[str, Policy] | None = None, workers: int = 1, **settings
) -> AsyncIterator[list[DelayRig]]:
    """Workers that move delayed jobs of these servers, each with connections of its own."""
    async with contextlib.AsyncExitStack() as stack:
        clock = clock or Clock()
        rigs: list[DelayRig] = []
        for number in range(workers):
            kestrel = await stack.enter_async_context(client(*addresses, **settings))
            rigs.append(DelayRig(kestrel, clock, policies or {}, f"worker-{number}"))
        if isinstance(clock, JumpingClock):
            clock.busy = lambda waits: waits < sum(rig.loops for rig in rigs) or any(rig.busy for rig in rigs)
        running = [asyncio.create_task(rig.jobs.run()) for rig in rigs]
        passing = asyncio.create_task(clock.run()) if isinstance(clock, JumpingClock) else None
        try:
            yield rigs
        finally:
            for rig in rigs:
                rig.jobs.close()
            await asyncio.gather(*running)
            if passing is not None:
                passing.cancel()
