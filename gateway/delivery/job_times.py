"""How long jobs wait, are held, and take to reach a poll that waits for them: histograms of this worker.

1. A wait is from the enqueue to the first delivery, by the wall clocks of the gateways that stored and delivered it.
   A job that was delayed waits from when it was due, one that was a dead letter from when it was moved back.
2. A wake-up is the same for a job that was stored while its poll waited already.
3. A hold is from a delivery to the end of its lease, by the outcome.
"""

from __future__ import annotations

import time
from typing import Final

from gateway.common.histogram import Histogram
from gateway.envelope.read import Job
from gateway.envelope.times import instant
from gateway.leases.lease import Lease, State

SHORT_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Bounds of the buckets of what takes milliseconds."""
LONG_S: Final = (0.01, 0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
"""Bounds of the buckets of what may take hours."""
_OUTCOMES: Final = {
    State.ACKED: "acked",
    State.NACKED: "nacked",
    State.DELAYED: "nacked",
    State.REJECTED: "rejected",
    State.EXPIRED: "expired",
}
_OTHER: Final = "other"
"""The outcome of other leases: the connection was lost, the queue was deleted, or the gateway stopped."""


class JobTimes:
    """held: by the outcome of the lease."""

    def __init__(self) -> None:
        self.waited = Histogram(LONG_S)
        self.woken = Histogram(SHORT_S)
        self.held = {outcome: Histogram(LONG_S) for outcome in (*_OUTCOMES.values(), _OTHER)}

    def delivered(self, job: Job, attempt: int, polling_since_s: float) -> float | None:
        """A job is under lease. Returns the seconds that it has waited, None if that is unknown.

        attempt: 1 for the first delivery. polling_since_s: Unix time at which its poll began.
        """
        since_s = waiting_since(job)
        if since_s is None:
            return None
        waited_s = max(0.0, time.time() - since_s)
        if attempt == 1:
            self.waited.observe(waited_s)
            if since_s > polling_since_s:
                self.woken.observe(waited_s)
        return waited_s

    def ended(self, lease: Lease) -> None:
        """A lease has ended."""
        self.held[_OUTCOMES.get(lease.state, _OTHER)].observe(time.monotonic() - lease.begun_s)


def waiting_since(job: Job) -> float | None:
    """The Unix time since which the job waits (rule 1); None if the item does not say."""
    if job.ready_s is not None:
        return job.ready_s
    try:
        return instant(job.enqueued_at) if job.enqueued_at is not None else None
    except ValueError:
        return None
