"""Where a stream gets its jobs: one queue, or several in the order of preference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.delivery.backend import OnGone
from gateway.delivery.preferred import PreferredDelivery, PreferredReceiver
from gateway.delivery.queues.catalog import Queue
from gateway.delivery.receive import Delivery, Receiver
from gateway.envelope.read import Job
from gateway.leases.lease import Lease
from gateway.leases.limits import LeaseRoom


@dataclass(frozen=True, slots=True)
class StreamedJob:
    """A job, its queue, and its lease."""

    queue: Queue
    job: Job
    lease: Lease


class StreamSource(Protocol):
    """most: how many jobs one call of `next` may take. at_most_once: their leases are acked already."""

    most: int
    at_most_once: bool

    @property
    def tenant(self) -> str: ...
    async def next(self, most: int, timeout_s: float, on_gone: OnGone, room: LeaseRoom) -> list[StreamedJob]:
        """One to `most` jobs, in order; none if there was none in time. room: of their leases.

        Raises what Receiver.next raises.
        """


class QueueSource:
    """One queue. lease_s: the length of each lease."""

    most = 1

    def __init__(self, receiver: Receiver, queue: Queue, lease_s: float, *, at_most_once: bool) -> None:
        self._receiver = receiver
        self._queue = queue
        self._lease_s = lease_s
        self.at_most_once = at_most_once

    @property
    def tenant(self) -> str:
        return self._queue.tenant

    async def next(self, most: int, timeout_s: float, on_gone: OnGone, room: LeaseRoom) -> list[StreamedJob]:  # noqa: ARG002
        """See StreamSource.next."""
        found = await self._receiver.next(
            self._queue,
            timeout_s=timeout_s,
            lease_s=self._lease_s,
            on_gone=on_gone,
            at_most_once=self.at_most_once,
            room=room,
        )
        delivery = found.result
        return [StreamedJob(self._queue, delivery.job, delivery.lease)] if isinstance(delivery, Delivery) else []


class QueuesSource:
    """Several queues of a tenant. lease_s: the length of a lease of a job of the queue."""

    most = 1

    def __init__(
        self,
        receiver: PreferredReceiver,
        queues: Sequence[Queue],
        lease_s: Callable[[Queue], float],
        *,
        at_most_once: bool,
    ) -> None:
        self._receiver = receiver
        self._queues = queues
        self._lease_s = lease_s
        self.at_most_once = at_most_once

    @property
    def tenant(self) -> str:
        return self._queues[0].tenant

    async def next(self, most: int, timeout_s: float, on_gone: OnGone, room: LeaseRoom) -> list[StreamedJob]:  # noqa: ARG002
        """See StreamSource.next."""
        found = await self._receiver.next(
            self._queues,
            timeout_s=timeout_s,
            lease_s=self._lease_s,
            on_gone=on_gone,
            at_most_once=self.at_most_once,
            room=room,
        )
        taken = found.result
        if not isinstance(taken, PreferredDelivery):
            return []
        return [StreamedJob(taken.queue, taken.delivery.job, taken.delivery.lease)]
