"""Where a stream gets its jobs: one queue, or several in the order of preference.

A stream may outlive the policies of its queues, so each poll looks them up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.delivery.backend import OnGone
from gateway.delivery.caps.caps import Caps
from gateway.delivery.expired_jobs import ExpiredJobs
from gateway.delivery.preferred import PreferredDelivery, PreferredReceiver
from gateway.delivery.queues.catalog import Queue
from gateway.delivery.receive import Delivery, NextOptions, Receiver
from gateway.envelope.read import Job
from gateway.errors import BackendUnavailable, TooManyLeases
from gateway.leases.lease import Lease, OpenRead
from gateway.leases.limits import LeaseRoom
from gateway.leases.registry import Registry

TAKE_JOBS: Final = 64
TAKE_BYTES: Final = 65536
"""What is taken and written at a time, unless one job is larger."""


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
    tenant: str

    async def next(self, most: int, timeout_s: float, on_gone: OnGone, room: LeaseRoom) -> list[StreamedJob]:
        """One to `most` jobs, in order; none if there was none in time. room: of their leases.

        Raises what Receiver.next raises.
        """


class QueueSource:
    """One queue. After a job has come, those that are ready behind it are taken with one command.

    queue: the queue with its policy of now. lease_s: the length of a lease of a job of the queue. tasks: the lifespan's
    group.
    """

    most = TAKE_JOBS

    def __init__(
        self,
        receiver: Receiver,
        registry: Registry,
        caps: Caps,
        tasks: asyncio.TaskGroup,
        *,
        queue: Callable[[], Queue],
        lease_s: Callable[[Queue], float],
        at_most_once: bool,
    ) -> None:
        self.tenant = queue().tenant
        self._receiver = receiver
        self._registry = registry
        self._caps = caps
        self._tasks = tasks
        self._queue = queue
        self._lease_s = lease_s
        self.at_most_once = at_most_once

    async def next(self, most: int, timeout_s: float, on_gone: OnGone, room: LeaseRoom) -> list[StreamedJob]:
        """See StreamSource.next."""
        queue = self._queue()
        options = NextOptions(timeout_s, self._lease_s, on_gone, self.at_most_once, room)
        found = await self._receiver.next(queue, options)
        if not isinstance(found.result, Delivery):
            return []
        taken, leased_s = [StreamedJob(queue, found.result.job, found.result.lease)], time.monotonic()
        read = found.result.lease.read
        alone = self.at_most_once or self._caps.limits(queue) is not None
        if read is None or alone or self._receiver.draining:
            return taken
        left_bytes = TAKE_BYTES - len(read.data)
        if most > 1 and left_bytes > 0:
            try:
                reads = await read.more(most - 1, left_bytes)
                await self._add_ready(queue, taken, reads, room, found.result.polling_since_s)
                if await self._receiver.paused_since(queue, [each.lease for each in taken], leased_s):
                    return []
            except BaseException:
                self._registry.give_back_all([each.lease for each in taken])
                raise
        return taken

    async def _add_ready(
        self, queue: Queue, taken: list[StreamedJob], reads: Sequence[OpenRead], room: LeaseRoom, since_s: float
    ) -> None:
        """Leases the items, in their order, until there is no room. since_s: see Receiver.deliver.

        Cancelled: those without a lease are back.
        """
        expired = ExpiredJobs(self._tasks)
        used = 0
        try:
            for read in reads:
                used += 1  # from here on `deliver` gives it back
                delivery = await self._receiver.deliver(
                    queue, read, self._lease_s(queue), expired, room, since_s=since_s
                )
                if delivery is not None:
                    taken.append(StreamedJob(queue, delivery.job, delivery.lease))
        except (TooManyLeases, BackendUnavailable):
            return  # the next poll says so
        finally:
            for read in reversed(reads[used:]):
                read.give_back()


class QueuesSource:
    """Several queues of a tenant. queues: with their policies of now. lease_s: as for QueueSource."""

    most = 1

    def __init__(
        self,
        receiver: PreferredReceiver,
        queues: Callable[[], Sequence[Queue]],
        lease_s: Callable[[Queue], float],
        *,
        at_most_once: bool,
    ) -> None:
        self.tenant = queues()[0].tenant
        self._receiver = receiver
        self._queues = queues
        self._lease_s = lease_s
        self.at_most_once = at_most_once

    async def next(self, most: int, timeout_s: float, on_gone: OnGone, room: LeaseRoom) -> list[StreamedJob]:  # noqa: ARG002
        """See StreamSource.next."""
        options = NextOptions(timeout_s, self._lease_s, on_gone, self.at_most_once, room)
        found = await self._receiver.next(self._queues(), options)
        taken = found.result
        if not isinstance(taken, PreferredDelivery):
            return []
        return [StreamedJob(taken.queue, taken.delivery.job, taken.delivery.lease)]
