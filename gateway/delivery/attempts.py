"""How often this worker saw a job come back to its queue. In memory and bounded, so a lower bound of the truth.

A job that returns to the head keeps its bytes, and with them the attempt written there; later ones are counted here.
"""

from __future__ import annotations

from collections import OrderedDict

from gateway.leases.lease import Lease, State

_DONE = frozenset({State.ACKED, State.DROPPED})


class Attempts:
    """Counts by Kestrel key and job id; the oldest entries go when there are more than `limit`."""

    def __init__(self, limit: int = 100_000) -> None:
        self._limit = limit
        self._returns: OrderedDict[tuple[str, str], int] = OrderedDict()

    def of(self, key: str, job_id: str | None, written: int) -> int:
        """The attempt a delivery is: what the envelope says, and the returns seen here."""
        return written + self._returns.get((key, job_id), 0) if job_id is not None else written

    def ended(self, lease: Lease) -> None:
        """Listens to the registry: a lease's end either finishes the job or adds one return."""
        if lease.job_id is None:
            return
        at = (lease.key, lease.job_id)
        if lease.state in _DONE:
            self._returns.pop(at, None)
            return
        self._returns[at] = self._returns.get(at, 0) + 1
        self._returns.move_to_end(at)
        if len(self._returns) > self._limit:
            self._returns.popitem(last=False)
