"""Next: a poll waits for a job and leaves with it under a lease. A job whose time is over is dropped on the way."""

from __future__ import annotations

import time
from dataclasses import dataclass

from gateway.contract.envelope import Job, raw, unwrap
from gateway.delivery.attempts import Attempts, identity
from gateway.delivery.backend import Backend, OnGone, Told, Waiter
from gateway.delivery.catalog import Queue
from gateway.delivery.quota import Quota
from gateway.errors import Draining, LeaseLost, OutcomeUnknown, TooManyWaiters
from gateway.leases.lease import Lease, OpenRead
from gateway.leases.registry import Registry

DROPPING_S = 5.0
"""How long a poll that should answer at once may go on past expired jobs."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A job and the lease that its consumer now holds."""

    job: Job
    lease: Lease


class Receiver:
    """Takes jobs for consumers. limit: polls parked at once."""

    def __init__(self, backend: Backend, registry: Registry, quota: Quota, *, limit: int) -> None:
        self._backend = backend
        self._quota = quota
        self._registry = registry
        self._limit = limit
        self._waiters: set[Waiter] = set()
        self._attempts = Attempts()
        self.draining = False
        registry.on_end(self._attempts.ended)

    @property
    def parked(self) -> int:
        """Polls that wait at this moment."""
        return len(self._waiters)

    async def next(
        self, queue: Queue, *, timeout_s: float, lease_s: float, on_gone: OnGone, told: Told
    ) -> Delivery | None:
        """The next job under a lease of `lease_s` seconds; None when the wait ended empty, or the consumer has gone.

        told: of an empty wait, how many servers were asked.

        Raises: TooManyQueues, TooManyWaiters, TooManyLeases, Draining; BackendUnavailable.
        Cancelled: no job is held.
        """
        if self.draining:
            raise Draining("no job is handed out any more")
        await self._quota.check(queue)
        began_s = time.monotonic()
        left_s = timeout_s
        while True:
            self._registry.check_room()
            read = await self._take(queue.key, left_s, on_gone, told)
            if read is None:
                return None
            try:
                job = raw(read.data) if queue.policy.raw else unwrap(read.data)
                if job.expires_s is None or job.expires_s > time.time():
                    return Delivery(job, self._lease(queue, job, read, lease_s))
            except BaseException:
                read.give_back()
                raise
            await _drop(read)
            gone_s = time.monotonic() - began_s
            if gone_s > max(timeout_s, DROPPING_S) or self.draining:
                return None
            left_s = max(0.0, timeout_s - gone_s)

    async def _take(self, key: str, timeout_s: float, on_gone: OnGone, told: Told) -> OpenRead | None:
        """The next item, set aside; None when the wait ended empty, or the consumer has gone."""
        if len(self._waiters) >= self._limit:
            raise TooManyWaiters(f"{self._limit} polls are parked here already")
        waiter = self._backend.wait(key, timeout_s)
        self._waiters.add(waiter)
        forget = on_gone(waiter.cancel)
        try:
            read = await waiter.result()
            if read is None:
                told(waiter.coverage)
            return read
        finally:
            forget()
            self._waiters.discard(waiter)

    def _lease(self, queue: Queue, job: Job, read: OpenRead, length_s: float) -> Lease:
        known_by = identity(job.id, read.data)
        lease = self._registry.open(
            read,
            tenant=queue.tenant,
            queue=queue.name,
            key=queue.key,
            job_id=job.id,
            attempt=self._attempts.of(queue.key, known_by, job.attempt),
            length_s=length_s,
        )
        self._attempts.follow(lease, known_by)
        return lease

    def drain(self) -> None:
        """Ends every parked poll empty-handed and hands out nothing more."""
        self.draining = True
        for waiter in list(self._waiters):
            waiter.cancel()


async def _drop(read: OpenRead) -> None:
    """The item is gone, or back on its queue where it is dropped again. Cancelled: one of the two."""
    try:
        await read.confirm()
    except (LeaseLost, OutcomeUnknown):
        pass
    finally:
        read.give_back()
