"""The use cases of taking and settling over a real broker, in this process, so that their counts can be looked at."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path

from gateway.config.policies import Policies, Policy, Table
from gateway.delivery.caps.caps import Caps
from gateway.delivery.caps.link import CapLink
from gateway.delivery.control.control import Control
from gateway.delivery.dead_letters.inspection import DeadLetterAdmin
from gateway.delivery.dead_letters.letters import DeadLetterJobs, search_turns
from gateway.delivery.dead_letters.redrive import Redrive, Redriven, RedriveOrder
from gateway.delivery.delay.held_job_mover import HeldJobMover
from gateway.delivery.delay.holding import HoldingQueues
from gateway.delivery.delay.watch import DelayedJobs
from gateway.delivery.figures.head_ages import HeadAges
from gateway.delivery.moves import Moves
from gateway.delivery.pause import Pauses
from gateway.delivery.poll_limits import PollLimits
from gateway.delivery.queues.catalog import Catalog, Queue
from gateway.delivery.queues.known import KnownQueues
from gateway.delivery.queues.quota import Quota
from gateway.delivery.receive import Delivery, Hold, NextOptions, Receiver
from gateway.envelope.write import EnqueueContext, wrap
from gateway.errors import GatewayError
from gateway.fairness.turns import Turns
from gateway.kestrel.client import Kestrel
from gateway.leases.ids import LeaseIds
from gateway.leases.lease import OpenRead
from gateway.leases.registry import Registry
from gateway.names.namespace import Namespace
from gateway.settings import Settings
from tests.kestrel.support import CONNECT_LIMIT, until
from tests.leases.support import balanced

_numbers = itertools.count()


class Rig:
    """One worker's insides."""

    def __init__(self, kestrel: Kestrel, tasks: asyncio.TaskGroup, policies: dict[str, Policy], **limits) -> None:
        self.kestrel = kestrel
        self.tasks = tasks
        namespace = Namespace()
        self.catalog = Catalog(namespace, Policies(tuple(Table("", name, each) for name, each in policies.items())))
        self.registry = Registry(
            LeaseIds([b"k" * 32], "00" * 8),
            tasks,
            **{
                "limit": 100,
                "tenant_limit": 100,
                "limit_bytes": 1 << 30,
                "longest_s": 0,
                "memory_s": 600,
                "memory_limit": 1000,
            }
            | limits,
        )
        quota = Quota(kestrel, KnownQueues(kestrel, self.catalog, Turns()), 1000)
        self.holding = HoldingQueues(kestrel, namespace, "worker")
        self.mover = HeldJobMover(kestrel, self.catalog, quota, self.holding)
        self.delayed = DelayedJobs(kestrel.each_member, self.holding, self.mover)
        self.moves = Moves(kestrel, self.catalog, self.holding, tasks, max_attempts=25)
        polls = PollLimits(100, tenant_limit=100, queue_limit=100)
        self.control = Control(kestrel.each_member, "_kestrel-gateway__control", eager=True)
        self.pauses = Pauses(self.control, self.catalog, polls)
        self.cap_link = CapLink(Path("/nonexistent"))
        self.caps = Caps(self.cap_link, self.catalog)
        self.receiver = Receiver(
            kestrel,
            self.registry,
            self.moves,
            quota,
            tasks,
            poll_limits=polls,
            pauses=self.pauses,
            caps=self.caps,
            turns=Turns(),
        )
        self._redrive = Redrive(kestrel, self.moves.dead_letters, quota, tasks)

    def queue(self, name: str) -> Queue:
        return self.catalog.queue("", name)

    async def put(self, name: str, body: bytes = b'"job"', job_id: str = "", ttl_s: float | None = None) -> bytes:
        """Enqueues as the gateway does; the stored item."""
        now_s = time.time()
        stamp = EnqueueContext(f"/queues/{name}", now_s, now_s + ttl_s if ttl_s else None)
        item = wrap(body, None, job_id=job_id or f"id{next(_numbers)}", stamp=stamp)
        await self.kestrel.put(name, item.data)
        return item.data

    async def take(self, name: str, timeout_s: float = 5, lease_s: float = 100) -> Delivery | None:
        options = NextOptions(timeout_s, lambda _: lease_s, lambda _: lambda: None)
        delivery = await self.receiver.next(self.queue(name), options)
        assert not isinstance(delivery.result, Hold)
        return delivery.result

    async def redrive(self, queue: Queue, limit: int) -> Redriven:
        """What was moved back; raises the error where it is one."""
        moved = await self._redrive.redrive(queue, RedriveOrder(limit))
        if isinstance(moved.result, GatewayError):
            raise moved.result
        return moved.result

    async def redrive_one(self, queue: Queue, letter: OpenRead) -> Redriven:
        """Moves this dead letter back."""
        return await self._redrive.one(queue, queue, letter)

    def dead_letters(self) -> DeadLetterJobs:
        """One by one, of any queue."""
        members, turns = self.kestrel.each_member, Turns()
        admin = DeadLetterAdmin(self.kestrel, HeadAges(members, lambda _: True, turns))
        one_by_one = search_turns(self.cap_link)
        return DeadLetterJobs(members, admin, self._redrive, self.tasks, one_by_one, payload_bytes=1 << 20)

    async def open_reads(self, name: str) -> int:
        stats = (await self.kestrel.queue_stats(name)).queues.get(name)
        return stats.open_reads if stats is not None else 0


@contextlib.asynccontextmanager
async def rig(
    *addresses: str, policies: dict[str, Policy] | None = None, limits=None, worker_socket: str = "", **settings
) -> AsyncIterator[Rig]:
    """A started rig; at its end the counts balance, nothing is open and nothing is left of it.

    worker_socket: of the broker with the first address, for a multiplexed connection.
    """
    sockets = {addresses[0]: worker_socket} if worker_socket else {}
    kestrel = Kestrel(addresses, Settings(**CONNECT_LIMIT | settings), worker_sockets=sockets)
    await kestrel.start()
    try:
        await until(lambda: all(backend.state.value == "up" for backend in kestrel.backends()))
        async with asyncio.TaskGroup() as tasks:
            made = Rig(kestrel, tasks, policies or {}, **limits or {})
            moving = tasks.create_task(made.delayed.run())
            try:
                yield made
            finally:
                made.receiver.drain()
                made.registry.close()
                made.delayed.close()
                await moving
        counts = made.registry.leases.statistics()
        assert (balanced(counts), counts.open, counts.delayed) == (True, 0, 0), str(counts)
        # A connection without an owner would still be pinned.
        await until(lambda: kestrel.statistics().pinned == 0)
    finally:
        await kestrel.close()
