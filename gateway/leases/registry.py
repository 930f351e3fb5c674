"""The leases of one worker: opens them, and does what consumers, deadlines, connections and a stop ask of them.

How one lease is settled is in settlements.py, how the jobs of a batch are in batches.py. Knows no HTTP, no forwarding.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gateway.common.shares import WHOLE
from gateway.errors import LeaseForgotten
from gateway.leases.ahead import AckAhead
from gateway.leases.batch import ended_error, first_jobs, plan
from gateway.leases.batches import Batches, check_length
from gateway.leases.deleted import RecentCounts
from gateway.leases.ids import LeaseIds
from gateway.leases.known import KnownLeases
from gateway.leases.lease import (
    Disposition,
    Lease,
    LeaseRecord,
    Mover,
    OpenRead,
    Place,
    State,
)
from gateway.leases.limits import LeaseRoom
from gateway.leases.settlements import Settlements

log = logging.getLogger(__name__)

DROPPED_AT_ONCE = 16
LATE_S = 0.1
"""A lease is noticed this long after its deadline only if the process was stopped (frozen, suspended, starved), or if
more than about 800 leases end at one instant (gateway.leases.deadlines). In the first case its connection may be dead
without being noticed yet.
"""


class Registry:
    """Owns every open read under a lease.

    tasks: the lifespan's group, to which settlements belong. limit, tenant_limit, limit_bytes, share: see LeaseLimits.
    longest_s: no lease lasts longer in total, extensions and delays included; 0: no such limit.
    memory_s, memory_limit: how long, and how many, ended leases are remembered.
    """

    def __init__(
        self,
        ids: LeaseIds,
        tasks: asyncio.TaskGroup,
        *,
        limit: int,
        tenant_limit: int,
        limit_bytes: int,
        longest_s: float,
        memory_s: float,
        memory_limit: int,
        share: float = WHOLE,
    ) -> None:
        self._ids = ids
        self._tasks = tasks
        self._longest_s = longest_s
        self.leases = KnownLeases(
            self._due,
            limit=limit,
            tenant_limit=tenant_limit,
            limit_bytes=limit_bytes,
            share=share,
            memory_s=memory_s,
            memory_limit=memory_limit,
        )
        self.limits = self.leases.limits
        self._settlements = Settlements(self.leases, tasks)
        self.batches = Batches(self.leases, self._settlements)
        self._deleted = RecentCounts()

    def __repr__(self) -> str:
        return f"<Registry {self.leases.statistics()}>"

    def open(
        self,
        read: OpenRead,
        mover: Mover,
        *,
        id_: str = "",
        tenant: str,
        queue: str,
        key: str,
        job_id: str | None,
        known_by: str,
        attempt: int,
        length_s: float,
        room: LeaseRoom | None = None,
    ) -> Lease:
        """A new lease over `read`, HELD for `length_s` seconds. id_: of a job of a batch; clients do not see it. room:
        None for the limits of all leases.

        Raises TooManyLeases; then the caller keeps the read.
        """
        (room or self.limits).check_room(tenant, len(read.data))
        now_s = time.monotonic()
        lease = Lease(
            id=id_ or self._ids.new(tenant),
            tenant=tenant,
            queue=queue,
            key=key,
            job_id=job_id,
            known_by=known_by,
            attempt=attempt,
            deadline_s=now_s + length_s,
            expires_at_s=time.time() + length_s,
            latest_s=now_s + self._longest_s if self._longest_s else math.inf,
            begun_s=now_s,
            read=read,
            mover=mover,
        )
        self.leases.add(lease, len(read.data))
        read.on_lost(lambda: self._lost(lease))
        return lease

    def inspect(self, lease_id: str) -> LeaseRecord:
        """What is known of the lease. Raises LeaseForgotten."""
        if (batch := self.leases.batches.get(lease_id)) is not None:
            return batch.record()
        return _record(self.leases.find(lease_id))

    async def ack(self, lease_id: str, upto: int = 0) -> LeaseRecord:
        """Acks the lease: the job is gone for good. Does nothing if it was acked before.

        upto: only so many jobs of a batch, from the first on; 0: all.

        Raises: LeaseConflict, LeaseExpired, LeaseLost, QueueDeleted, LeaseForgotten; OutcomeUnknown; BackendRefused
        if Kestrel refused just now: the lease is lost and the job is back on its queue; InvalidBody if `upto` is above
        the number of jobs.
        Cancelled: the settlement continues.
        """
        if (batch := self.leases.batches.get(lease_id)) is not None:
            return await self.batches.ack(batch, upto)
        lease = self.leases.find(lease_id)
        if upto:
            lease = first_jobs(lease, upto)
        mine = lease.state is State.HELD
        if mine:
            assert isinstance(lease, Lease)
            self._settlements.start_ack(lease)
        await self._settlements.settled(lease, State.ACKED, mine=mine)
        return _record(lease)

    def ack_ahead(self, lease_id: str) -> AckAhead | None:
        """The ack of a held lease of one job, not begun; None if it is not one: then `ack` acks or says why."""
        lease = self.leases.get(lease_id)
        if lease is None or lease.state is not State.HELD or lease.batch_id:
            return None
        return AckAhead(lease, self._settlements, self.ack)

    async def nack(
        self,
        lease_id: str,
        *,
        asked: Place | None = None,
        delay_s: float | None = None,
        reason: str = "",
        counted: bool = True,
    ) -> LeaseRecord:
        """Gives the job back to the place `asked`, after `delay_s`; None: by the queue's policy. The record's `place`
        says where it went.

        counted: whether this was an attempt; if not, the job goes to the head.

        The record's `target` is the place that this call asked for, even if an earlier nack asked for another one.
        A job whose last attempt this was is not delayed. Raises and Cancelled: as for `ack`; DelayBeyondExpiry, and the
        lease stays as it was.
        """
        if (batch := self.leases.batches.get(lease_id)) is not None:
            return await self.batches.move(batch, Disposition(State.NACKED, asked, reason, delay_s, counted))
        lease = self.leases.find(lease_id)
        disposition = Disposition(State.NACKED, asked, reason, delay_s, counted)
        if isinstance(lease, Lease) and lease.state is State.HELD:
            assert lease.mover is not None
            await lease.mover.check(lease, disposition)
        mine = lease.state is State.HELD  # it may have ended meanwhile
        if mine:
            assert isinstance(lease, Lease)
            self._settlements.begin_move(lease, disposition)
        await self._settlements.settled(lease, State.NACKED, mine=mine)
        record = _record(lease)
        return record if asked is None else record._replace(target=asked)

    async def reject(self, lease_id: str, *, reason: str = "") -> LeaseRecord:
        """Moves the job to the dead letters. If they refuse it, `place` of the record says where it went.

        Raises, Cancelled: as for `ack`.
        """
        if (batch := self.leases.batches.get(lease_id)) is not None:
            return await self.batches.move(batch, Disposition(State.REJECTED, Place.DEAD, reason))
        lease = self.leases.find(lease_id)
        mine = lease.state is State.HELD
        if mine:
            assert isinstance(lease, Lease)
            self._settlements.begin_move(lease, Disposition(State.REJECTED, Place.DEAD, reason))
        await self._settlements.settled(lease, State.REJECTED, mine=mine)
        return _record(lease)

    async def settle(self, lease_id: str, settlement: Mapping[str, Any]) -> LeaseRecord:
        """Settles each job of a batch separately; see Batches.settle. A lease of one job is a batch of one.

        Raises: InvalidBody, DelayBeyondExpiry; nothing was done. LeaseForgotten. Cancelled: the settlement continues.
        """
        batch = self.leases.batches.get(lease_id)
        if batch is None:
            lease = self.leases.find(lease_id)
            if isinstance(lease, Lease) and lease.state is State.HELD:
                # Before it becomes a batch: a refused request changes nothing.
                await self.batches.check([lease], [plan(settlement, [lease.job_id]).of(0)])
                batch = self.leases.batches.get(lease_id)  # that of another request, which began meanwhile
                if batch is None and lease.state is State.HELD:
                    batch = self.batches.begin(lease)
            if batch is None:
                if isinstance(lease, Lease) and lease.settlement is not None:
                    await lease.settlement.result()
                record = _record(lease)
                record = record if record.jobs else record._replace(jobs=(record,))
                plan(settlement, [each.job_id for each in record.jobs])
                return record
        return await self.batches.settle(batch, settlement)

    async def extend(self, lease_id: str, length_s: float) -> LeaseRecord:
        """The lease ends `length_s` seconds from now.

        Raises: as for `ack`; InvalidBody if the lease would be longer than Kestrel allows for an open read.
        """
        if (batch := self.leases.batches.get(lease_id)) is not None:
            return await self.batches.extend(batch, length_s)
        lease = self.leases.find(lease_id)
        if isinstance(lease, Lease) and lease.settlement is not None:
            await lease.settlement.result()
        if not isinstance(lease, Lease) or lease.state is not State.HELD:
            raise ended_error(lease, State.HELD) or LeaseForgotten("the outcome of the lease is unknown")
        check_length(length_s, lease.latest_s)
        self.leases.set_deadline(lease, length_s)
        return lease.record()

    def give_back(self, lease: Lease) -> None:
        """The answer with the lease did not reach the client: gives the job back to the head of its queue."""
        if lease.state is State.HELD:
            read = self.leases.end(lease, State.RETURNED)
            self._tasks.create_task(_abort(read))

    def give_back_all(self, leases: Iterable[Lease]) -> None:
        """Like `give_back`, for leases in the order of their delivery: the jobs are back in this order."""
        by_server: dict[str, list[OpenRead]] = {}
        for lease in leases:
            if lease.state is State.HELD:
                read = self.leases.end(lease, State.RETURNED)
                by_server.setdefault(read.server, []).append(read)
        for reads in by_server.values():
            self._tasks.create_task(_abort_all(reads))

    async def drop_queue(self, key: str) -> int:
        """Ends every lease on a queue that was just deleted, except acks in progress.

        Returns how many the deletion has ended, including those that the server has just reported.

        DROPPED_AT_ONCE in one turn of the loop. Cancelled: the others end in their own way.
        """
        on_queue = [lease for lease in self.leases.open() if lease.key == key]
        dropped = self._deleted.take(key)
        for number, lease in enumerate(on_queue, 1):
            if self.leases.get(lease.id) and _droppable(lease):
                self.leases.end(lease, State.DROPPED).give_back()
                dropped += 1
            if number % DROPPED_AT_ONCE == 0:
                await asyncio.sleep(0)
        return dropped

    def close(self) -> None:
        """Gives back every job without a settlement in progress. No lease may be opened afterwards.

        The last one taken goes back first, because each goes to the head: so the queues keep their order.
        """
        self.leases.deadlines.close()
        for lease in reversed(self.leases.open()):
            if lease.state is State.HELD:
                self.leases.end(lease, State.DRAINED).give_back()
            elif lease.state is State.DELAYED:
                self._early(lease).give_back()

    def _due(self, lease: Lease) -> None:
        """The lease has expired, or its delay is over."""
        late = time.monotonic() - lease.deadline_s > LATE_S
        if lease.state is State.DELAYED:
            assert lease.disposition is not None
            self.leases.delayed -= 1
            self._settlements.begin_move(lease, replace(lease.disposition, delay_s=0.0), late=late)
        else:
            expired = Disposition(State.EXPIRED, reason="the lease expired")
            for each in self.batches.expire_with(lease, expired) if lease.batch_id else (lease,):
                self._settlements.begin_move(each, expired, late=late)

    def _lost(self, lease: Lease) -> None:
        if lease.read is not None and lease.read.deleted and _droppable(lease):
            self._deleted.add(lease.key)
            self.leases.end(lease, State.DROPPED)
        elif lease.state is State.HELD:
            self.leases.end(lease, State.LOST)
        elif lease.state is State.DELAYED:
            self._early(lease)

    def _early(self, lease: Lease) -> OpenRead:
        """Ends a delayed nack before it is due: its job goes to the head."""
        lease.place = Place.HEAD
        return self.leases.end(lease, State.NACKED)


def _record(lease: Lease | LeaseRecord) -> LeaseRecord:
    return lease.record() if isinstance(lease, Lease) else lease


def _droppable(lease: Lease) -> bool:
    return lease.state is not State.SETTLING or lease.disposition is not None


async def _abort_all(reads: Sequence[OpenRead]) -> None:
    """reads: of one server."""
    try:
        await reads[0].abort_all(reads)
    except Exception:
        log.exception("giving jobs back failed")
    finally:
        for read in reversed(reads):
            read.give_back()


async def _abort(read: OpenRead) -> None:
    try:
        await read.abort()
    except Exception:
        log.exception("giving a job back failed")
        read.give_back()
