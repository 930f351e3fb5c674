"""Shared by the tests of leases: items and ways that end as the test says."""

import asyncio
import time
from collections import deque
from typing import Any

from gateway.errors import BackendRefused, LeaseLost, OutcomeUnknown, QueueDeleted
from gateway.leases.ids import LeaseIds
from gateway.leases.lease import Disposition, Lease, Moved, Place, State
from gateway.leases.registry import Registry

LIMIT = 5
_made: deque[Registry] = deque(maxlen=10)
TROUBLE = {"lost": LeaseLost, "unknown": OutcomeUnknown, "refused": BackendRefused}


class Item:
    """An open read that ends as the test says: done, lost, refused, or without an answer."""

    def __init__(self) -> None:
        self.data = b""
        self.fate = "done"
        self.ends: list[str] = []
        self.tell_lost = lambda: None
        self.lost = self.deleted = False

    def start_confirm(self, then):
        return False

    def on_lost(self, callback):
        self.tell_lost = callback

    async def verify(self):
        self.ends.append("verified")

    async def confirm(self):
        await self.end("confirmed")

    async def abort(self):
        await asyncio.sleep(0)
        self.ends.append("back")

    def give_back(self):
        self.ends.append("back")

    async def end(self, how):
        await asyncio.sleep(0)
        if self.fate in TROUBLE:
            raise TROUBLE[self.fate]("as told")
        self.ends.append(how)


class ScriptedMover:
    """Ends as the fate of the item says. last: the job has no further attempt. gate: what the mover waits for.

    holds: a job with a delay gets on a holding queue; otherwise it stays set aside.
    """

    def __init__(self, *, last: bool = False, gate: asyncio.Event | None = None, holds: bool = False) -> None:
        self.last = last
        self.holds = holds
        self.gate = gate
        self.left: list[Disposition] = []

    def target(self, leaving):
        return Place.DEAD if leaving.state is State.REJECTED else leaving.asked or Place.TAIL

    async def check(self, lease, leaving):
        pass

    async def move(self, lease, leaving):
        self.left.append(leaving)
        due_at_s = time.time() + leaving.delay_s if leaving.delay_s and not self.last else None
        if due_at_s and not self.holds:
            return Moved(Place.HEAD, due_at_s, set_aside=True)
        item = lease.read
        if self.gate is not None:
            await self.gate.wait()
        if lease.read is None:
            raise QueueDeleted("gone")
        await item.end("moved")
        return Moved(Place.DEAD if self.last else self.target(leaving), due_at_s)


def registry(tasks: asyncio.TaskGroup, **changes) -> Registry:
    limits = {
        "limit": LIMIT,
        "tenant_limit": LIMIT,
        "limit_bytes": 1 << 30,
        "longest_s": 0,
        "memory_s": 600,
        "memory_limit": 1000,
    }
    made = Registry(LeaseIds([b"k" * 32], "00" * 8), tasks, **limits | changes)
    _made.append(made)
    return made


def opened(leases: Registry, item: Any, length_s: float = 100, mover: ScriptedMover | None = None, **changes) -> Lease:
    what: dict[str, Any] = {"tenant": "", "queue": "q", "key": "q", "job_id": "1", "known_by": "1", "attempt": 1}
    return leases.open(item, mover or ScriptedMover(), length_s=length_s, **what | changes)


def within(work):
    """Runs `work(tasks)` in a loop with a task group of its own; its registries' counts balance then."""
    _made.clear()

    async def go():
        async with asyncio.TaskGroup() as tasks:
            return await work(tasks)

    result = asyncio.run(go())
    assert _made
    for each in _made:
        assert balanced(each.leases.statistics()), each
    return result


def balanced(statistics):
    """Whether each lease that was ever delivered is open or has ended in one of the ways that are counted."""
    return statistics.delivered == statistics.open + sum(statistics.ended.values())
