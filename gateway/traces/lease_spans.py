"""The spans of settlements: one for each lease that ends, in the trace of its delivery.

1. A lease whose delivery is not sampled has none.
2. A batch has one for each way in which its jobs ended, with the number of jobs, when the last one has ended.
3. It begins when the settlement begins, in whatever worker the request arrived, and ends when Kestrel has answered. An
   end without a settlement, such as a lost connection, is one instant.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from opentelemetry.trace import Link, SpanContext, Tracer

from gateway.leases.known import KnownLeases
from gateway.leases.lease import Lease, Place, State
from gateway.traces.conventions import ATTEMPT, BATCH_COUNT, PLACE, settlement
from gateway.traces.spans import Attributes, begin, finish, message_id


@dataclass(slots=True)
class TracedDelivery:
    """A delivery that has a span. left: its jobs whose leases are open. batch: whether its jobs are settled together.

    settling_ns: when the first settlement began; 0: none has. ends: how its jobs have ended.
    """

    tenant: str
    queue: str
    context: SpanContext
    links: Sequence[Link]
    left: int
    batch: bool
    settling_ns: int = 0
    ends: Counter[tuple[State, Place | None]] = field(default_factory=Counter)


class LeaseSpans:
    """Watches the leases of a worker."""

    def __init__(self, tracer: Tracer, leases: KnownLeases) -> None:
        self._tracer = tracer
        self._open: dict[str, TracedDelivery] = {}
        leases.settling = self._settling
        leases.on_end(self._ended)

    def __len__(self) -> int:
        """How many leases are watched."""
        return len(self._open)

    def watch(self, delivery: TracedDelivery, leases: Sequence[Lease]) -> None:
        """Makes the spans of these leases, which were just delivered. One that has ended already gets its span now."""
        for lease in leases:
            self._open[lease.id] = delivery
        for lease in leases:
            if lease.read is None:
                self._ended(lease)

    def _settling(self, lease: Lease) -> None:
        delivery = self._open.get(lease.id)
        if delivery is not None and not delivery.settling_ns:
            delivery.settling_ns = time.time_ns()

    def _ended(self, lease: Lease) -> None:
        delivery = self._open.pop(lease.id, None)
        if delivery is None:
            return
        delivery.ends[lease.state, lease.place] += 1
        delivery.left -= 1
        if delivery.batch and delivery.left:
            return
        for (state, place), jobs in delivery.ends.items():
            about = message_id(lease.job_id) | {ATTEMPT: lease.attempt}
            if delivery.batch:
                about = {BATCH_COUNT: jobs}
            self._settled(delivery, state, place, about)

    def _settled(self, delivery: TracedDelivery, state: State, place: Place | None, about: Attributes) -> None:
        operation = settlement(state)
        if place is not None:
            about = about | {PLACE: place.value}
        span = begin(
            self._tracer,
            operation,
            delivery.tenant,
            delivery.queue,
            parent=delivery.context,
            links=delivery.links,
            attributes=about,
            start_ns=delivery.settling_ns or time.time_ns(),
        )
        finish(span, operation.error)
