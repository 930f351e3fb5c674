"""Next: a poll waits for a job and leaves with it under a lease."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.contract.envelope import Job, unwrap
from gateway.delivery.attempts import Attempts
from gateway.delivery.backend import Backend, OnGone, Waiter
from gateway.delivery.catalog import Queue
from gateway.delivery.quota import Quota
from gateway.errors import Draining, TooManyWaiters
from gateway.leases.lease import Lease
from gateway.leases.registry import Registry


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

    async def next(self, queue: Queue, *, timeout_s: float, lease_s: float, on_gone: OnGone) -> Delivery | None:
        """The next job under a lease of `lease_s` seconds; None when the wait ended empty, or the consumer has gone.

        Raises: TooManyQueues, TooManyWaiters, TooManyLeases, Draining; BackendUnavailable.
        Cancelled: no job is held.
        """
        if self.draining:
            raise Draining("no job is handed out any more")
        await self._quota.check(queue)
        self._registry.check_room()
        if len(self._waiters) >= self._limit:
            raise TooManyWaiters(f"{self._limit} polls are parked here already")
        waiter = self._backend.wait(queue.key, timeout_s)
        self._waiters.add(waiter)
        forget = on_gone(waiter.cancel)
        try:
            read = await waiter.result()
        finally:
            forget()
            self._waiters.discard(waiter)
        if read is None:
            return None
        try:
            job = unwrap(read.data)
            attempt = self._attempts.of(queue.key, job.id, job.attempt)
            lease = self._registry.open(
                read,
                tenant=queue.tenant,
                queue=queue.name,
                key=queue.key,
                job_id=job.id,
                attempt=attempt,
                length_s=lease_s,
            )
        except BaseException:
            read.give_back()
            raise
        return Delivery(job, lease)

    def drain(self) -> None:
        """Ends every parked poll empty-handed and hands out nothing more."""
        self.draining = True
        for waiter in list(self._waiters):
            waiter.cancel()
