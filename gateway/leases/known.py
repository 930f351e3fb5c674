"""The leases that a worker knows: the open ones, those that have ended a short time ago, and how many there were.

1. A lease is open exactly while it has an open read: while it is HELD or SETTLING, and while it is DELAYED if its job
   is not on a holding queue.
2. Every lease stops being open through `end`, which counts it and remembers how it ended.
3. At every instant each delivered lease is either open or counted in one of the ways to end.
4. Each job of a batch has a lease that counts like any other. A batch is open while one of them is, and is remembered
   instead of them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from gateway.errors import GatewayError, LeaseForgotten
from gateway.leases.batch import BatchLease
from gateway.leases.deadlines import Deadlines
from gateway.leases.ended import EndedLeases
from gateway.leases.lease import Lease, LeaseRecord, OpenRead, Settlement, State
from gateway.leases.limits import LeaseLimits

OUTCOME_NAMES = {
    State.ACKED: "acked",
    State.NACKED: "nacked",
    State.REJECTED: "rejected",
    State.RETURNED: "client_gone",
    State.EXPIRED: "expired",
    State.LOST: "backend_lost",
    State.DRAINED: "drained",
    State.DROPPED: "deleted",
    State.UNKNOWN: "unknown",
}
"""Every way in which a lease ends, as it is counted."""


@dataclass(frozen=True, slots=True)
class LeaseStatistics:
    """delivered: every lease that was opened here. ended: how many ended in which way (OUTCOME_NAMES). open: leases
    that have not ended; delayed: open leases that are nacked and wait until they are due.
    """

    delivered: int
    open: int
    delayed: int
    remembered: int
    ended: dict[str, int]

    def __str__(self) -> str:
        ways = " + ".join(f"{way} {count}" for way, count in self.ended.items())
        return f"delivered {self.delivered} = {ways} + open {self.open}"


class KnownLeases:
    """See the rules above. due: called with each lease whose deadline has come.

    delayed: how many open leases are DELAYED. batches: the open ones, by id. settling: called with each lease whose
    settlement begins; None: no callback. It must not raise.
    limit, tenant_limit, limit_bytes, share: see LeaseLimits.
    memory_s, memory_limit: how long, and how many, ended leases are remembered.
    """

    def __init__(
        self,
        due: Callable[[Lease], None],
        *,
        limit: int,
        tenant_limit: int,
        limit_bytes: int,
        share: float,
        memory_s: float,
        memory_limit: int,
    ) -> None:
        self.delayed = 0
        self.batches: dict[str, BatchLease] = {}
        self._open: dict[str, Lease] = {}
        self._ended = EndedLeases(memory_s=memory_s, limit=memory_limit)
        self.deadlines = Deadlines(self._open, due)
        self.limits = LeaseLimits(
            self._open, self.deadlines, limit=limit, tenant_limit=tenant_limit, limit_bytes=limit_bytes, share=share
        )
        self._delivered = 0
        self._outcomes: Counter[State] = Counter()
        self._listeners: list[Callable[[Lease], None]] = []
        self._delay_listeners: list[Callable[[Lease], None]] = []
        self.settling: Callable[[Lease], None] | None = None

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    def statistics(self) -> LeaseStatistics:
        ended = {way: self._outcomes[state] for state, way in OUTCOME_NAMES.items()}
        return LeaseStatistics(self._delivered, len(self._open), self.delayed, len(self._ended), ended)

    def add(self, lease: Lease, size: int) -> None:
        """A lease begins. size: of its item, in bytes."""
        self._open[lease.id] = lease
        self.limits.shares.take(lease.tenant)
        self.limits.bytes.take(lease.tenant, size)
        self._delivered += 1
        self.deadlines.set(lease)

    def open(self) -> list[Lease]:
        """Every open lease, in the order of delivery."""
        return list(self._open.values())

    def get(self, lease_id: str) -> Lease | None:
        """The open lease; None if there is none."""
        return self._open.get(lease_id)

    def is_open(self, lease_id: str, tenant: str) -> bool:
        """Whether this is the id of an open lease of the tenant, which may be a batch."""
        lease = self._open.get(lease_id)
        return lease is not None and lease.tenant == tenant and lease.batch_id in ("", lease_id)

    def find(self, lease_id: str) -> Lease | LeaseRecord:
        """The lease, open or remembered. Raises LeaseForgotten."""
        found = self._open.get(lease_id) or self._ended.get(lease_id)
        if found is None:
            raise LeaseForgotten("the lease ended so long ago that its outcome is forgotten")
        return found

    def on_end(self, listener: Callable[[Lease], None]) -> None:
        """Calls `listener` with each lease that ends, in its final state, with its settlement. It must not raise."""
        self._listeners.append(listener)

    def on_delay(self, listener: Callable[[Lease], None]) -> None:
        """Calls `listener` with each lease that stays open as a delayed nack. It must not raise."""
        self._delay_listeners.append(listener)

    def delay(self, lease: Lease) -> None:
        """The lease is a delayed nack now."""
        self.delayed += 1
        for listener in self._delay_listeners:
            listener(lease)

    def set_deadline(self, lease: Lease, length_s: float) -> None:
        """The lease ends `length_s` from now, or at its latest time if that is earlier."""
        lease.deadline_s = min(lease.latest_s, time.monotonic() + length_s)
        lease.expires_at_s = time.time() + lease.deadline_s - time.monotonic()
        self.deadlines.set(lease)

    def begin_settlement(self, lease: Lease) -> None:
        """The lease is settled from now on, until `end` or a delay."""
        lease.move(State.SETTLING)
        lease.settlement = Settlement()
        if self.settling is not None:
            self.settling(lease)

    def end(self, lease: Lease, outcome: State, refusal: GatewayError | None = None) -> OpenRead:
        """Counts and remembers the lease; returns its open read. refusal: Kestrel's, for those who wait for the end."""
        read = lease.read
        assert read is not None
        self.delayed -= lease.state is State.DELAYED
        lease.move(outcome)
        lease.read = lease.mover = lease.disposition = None
        del self._open[lease.id]
        self.limits.shares.give_back(lease.tenant)
        self.limits.bytes.give_back(lease.tenant, len(read.data))
        self._outcomes[State.NACKED if outcome is State.DELAYED else outcome] += 1
        if lease.batch_id:
            self._member_ended(self.batches[lease.batch_id])
        else:
            self._ended.add(lease.record())
        self._tell(lease)
        settlement, lease.settlement = lease.settlement, None
        if settlement is not None:
            settlement.end(refusal)
        return read

    def correct(self, lease: Lease, outcome: State) -> None:
        """The outcome of a lease that ended as UNKNOWN is known now."""
        self._outcomes[State.UNKNOWN] -= 1
        self._outcomes[outcome] += 1
        lease.move(outcome)
        self._ended.replace(lease)
        if outcome is not State.LOST:  # otherwise its return was counted as that of an unknown outcome
            self._tell(lease)

    def _member_ended(self, batch: BatchLease) -> None:
        batch.open -= 1
        if not batch.open:
            del self.batches[batch.id]
            self._ended.add(batch.record())

    def _tell(self, lease: Lease) -> None:
        for listener in self._listeners:
            listener(lease)
