"""A worker's places of queues with a limit (`max_in_flight`, `rate` in a policy). Knows no HTTP.

1. A poll of such a queue asks a server only while it has a place. The place is free when the poll ends without a job,
   or when the lease of its job ends, in whatever way.
2. Leases from before a policy set the limit count as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from gateway.delivery.caps.counter import CapLimits, CapReason
from gateway.delivery.caps.link import CapLink
from gateway.delivery.poll_limits import HeldPoll
from gateway.delivery.queues.catalog import Catalog, Queue
from gateway.leases.lease import Lease

ANSWER_S: Final = 1.0
"""The counter answers at once; one that does not is stopped or overloaded, and then no place is given."""


class CapPlace:
    """A place that was given. It is to be `leased` or `done`."""

    __slots__ = ("_caps", "_number")

    def __init__(self, caps: Caps, number: int) -> None:
        self._caps = caps
        self._number: int | None = number

    def leased(self, lease: Lease) -> None:
        """The poll has this lease, and the place is free when the lease ends."""
        if self._number is not None:
            number, self._number = self._number, None
            self._caps.leased(number, lease)

    def done(self) -> None:
        """The poll has ended without a job. Does nothing if it is leased or done."""
        if self._number is not None:
            number, self._number = self._number, None
            self._caps.link.done(number)


class Caps:
    """The places of this worker. link: to the counter."""

    def __init__(self, link: CapLink, catalog: Catalog) -> None:
        self.link = link
        self._catalog = catalog
        self._leases: dict[str, int] = {}

    def limits(self, queue: Queue) -> CapLimits | None:
        """The limits of the queue, as the file of policies says now; None if it has none."""
        policy = self._catalog.queue(queue.tenant, queue.name).policy
        if policy.max_in_flight is None and policy.rate is None:
            return None
        return CapLimits(policy.max_in_flight, policy.rate)

    async def place(self, queue: Queue, limits: CapLimits, poll: HeldPoll, within_s: float) -> CapPlace | CapReason:
        """A place for a poll of the queue; waits for it for `within_s`, and not longer than until `poll` is woken.

        Cancelled: no place is held.
        """
        number, given = self.link.ask(queue.key, limits)
        timer = asyncio.get_running_loop().call_later(max(0.0, within_s), self.link.stop, number)
        poll.on_woken(lambda: self.link.stop(number))
        try:
            async with asyncio.timeout(max(0.0, within_s) + ANSWER_S):
                reason = await asyncio.shield(given)
        except TimeoutError:
            self.link.abandon(number, given)
            return CapReason.OTHERS
        except asyncio.CancelledError:
            self.link.abandon(number, given)
            raise
        finally:
            timer.cancel()
        return CapPlace(self, number) if reason is None else reason

    def leased(self, number: int, lease: Lease) -> None:
        """The place is that of the lease."""
        self.link.leased(number)
        if lease.read is None:  # it has ended already
            self.link.done(number)
        else:
            self._leases[lease.id] = number

    def ended(self, lease: Lease) -> None:
        """A listener of the registry."""
        if (number := self._leases.pop(lease.id, None)) is not None:
            self.link.done(number)

    def policies_changed(self, waiting: Iterable[Queue], leases: Iterable[Lease]) -> None:
        """The policies of queues have changed. waiting: the queues with polls here. leases: those that are open."""
        for queue in {queue.key: queue for queue in waiting}.values():
            self.link.limit(queue.key, self.limits(queue) or CapLimits())
        for lease in leases:
            queue = self._catalog.queue(lease.tenant, lease.queue)
            limits = self.limits(queue)
            if limits is not None and lease.id not in self._leases:
                self._leases[lease.id] = self.link.hold(queue.key, limits)
