"""The holding queues: puts jobs on them, each on the one of its next level, or on the one of its delay. Does not look
at them.

They are internal queues (gateway.names.namespace), on any server. Their items have no expiry on Kestrel.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from gateway.delivery.backend import Backend
from gateway.delivery.delay.clock import Clock
from gateway.delivery.delay.held_job import HeldJob
from gateway.delivery.delay.levels import LEVELS, Hop, next_hop, own_purpose, purpose, wait_s
from gateway.envelope.times import timestamp
from gateway.errors import DelayBeyondExpiry, GatewayError
from gateway.names.namespace import Namespace

Held = Callable[[Hop], None]
"""Called with each stay that begins here."""


def check_due(due_ms: int, expires_s: float | None, advice: str = "send a shorter delay, or a longer ttl") -> None:
    """Returns if a job that expires then may be due then. advice: what to do otherwise. Raises DelayBeyondExpiry."""
    if expires_s is not None and due_ms >= expires_s * 1000:
        raise DelayBeyondExpiry(
            f"the job would be due at {timestamp(due_ms / 1000)}, and expires at {timestamp(expires_s)}; {advice}"
        )


class HoldingQueues:
    """worker: identifies this worker in the items it puts. clock: of all that moves delayed jobs. wanted: called with
    a delay in milliseconds that has no queue of its own. generation: of the subscription with a key, as
    DeletedSubscriptions tells it.

    keys: of the holding queues: by level, then of single delays. waits_s: how long jobs wait in each.
    """

    def __init__(self, backend: Backend, namespace: Namespace, worker: str = "", clock: Clock | None = None) -> None:
        self._backend = backend
        self.clock: Final = clock or Clock()
        self.worker: Final = worker
        self.keys: Final = [namespace.internal_key(purpose(level)) for level in range(LEVELS)]
        self.waits_s: Final = [wait_s(level) for level in range(LEVELS)]
        self.wanted: Callable[[int], None] = lambda _: None
        self.generation: Callable[[str], Awaitable[int | None]] = _unknown
        self._namespace = namespace
        self._own: dict[int, int] = {}
        self.unreadable_key: Final = namespace.internal_key("delay-unreadable")
        self._listeners: list[Held] = []

    def on_held(self, listener: Held) -> None:
        """Calls `listener` for each job that is stored. It must not raise."""
        self._listeners.append(listener)

    def add_own(self, wait_ms: int) -> None:
        """Jobs with this delay have a queue of their own from now on."""
        if wait_ms not in self._own:
            self._own[wait_ms] = len(self.keys)
            self.keys.append(self._namespace.internal_key(own_purpose(wait_ms)))
            self.waits_s.append(wait_ms / 1000)

    async def hold(self, job: HeldJob, wait_ms: int = 0) -> None:
        """Stores the job until it is due, or until its next move: Kestrel has answered STORED.

        wait_ms: the delay that begins now, if other jobs have the same one; 0: unknown.

        Raises: QueueFull, JobTooLarge, BackendUnavailable, BackendRefused; OutcomeUnknown.
        Cancelled: the job may or may not be stored.
        """
        own = self._own.get(wait_ms)
        if wait_ms and own is None:
            self.wanted(wait_ms)
        hop = next_hop(job.due_ms, self.clock.wall_s()) if own is None else Hop(own, job.due_ms)
        await self._backend.put(self.keys[hop.level], job.at(hop, self.worker).packed())
        self._tell(hop)

    async def hold_many(self, jobs: Sequence[HeldJob]) -> list[GatewayError | None]:
        """Stores jobs. Returns one outcome each: None if stored, otherwise an error as from `hold`.

        Cancelled: any of them may be stored.
        """
        now_s = self.clock.wall_s()
        hops = [next_hop(job.due_ms, now_s) for job in jobs]
        outcomes: list[GatewayError | None] = [None] * len(jobs)
        for level in dict.fromkeys(hop.level for hop in hops):
            places = [place for place, hop in enumerate(hops) if hop.level == level]
            puts = [(jobs[place].at(hops[place], self.worker).packed(), 0) for place in places]
            for place, outcome in zip(places, await self._backend.put_many(self.keys[level], puts), strict=True):
                outcomes[place] = outcome
                if outcome is None:
                    self._tell(hops[place])
        return outcomes

    async def empty(self) -> bool:
        """Whether no job is delayed; False also if not every server answers. Raises BackendUnavailable."""
        merged = await self._backend.queue_stats(*self.keys)
        held = any(each.items or each.open_reads for each in merged.queues.values())
        return not held and not merged.coverage.partial

    async def set_aside(self, item: bytes) -> None:
        """Stores an item that no gateway can read on a queue of its own. Raises as `hold`."""
        await self._backend.put(self.unreadable_key, item)

    def _tell(self, hop: Hop) -> None:
        for listener in self._listeners:
            listener(hop)


async def _unknown(_: str) -> None:
    return None
