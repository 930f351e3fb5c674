"""How often this worker saw a job come back to its queue. In memory and bounded, so a lower bound of the truth.

A job that returns to the head keeps its bytes, and with them the attempt written there; later ones are counted here.
A raw item has no attempt and no id: it is known by the digest of its bytes, so equal items count together.

A job may be delivered again before Kestrel has answered the command that gives it back. Hence a return is counted, and
the count of a job that is copied forgotten, before that command is sent.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from gateway.leases.lease import Lease, State

_DONE = frozenset({State.ACKED, State.DROPPED})
_LEFT_OUR_WAY = frozenset({State.NACKED, State.REJECTED, State.EXPIRED})


def identity(job_id: str | None, item: bytes) -> str:
    """What a job is known by here."""
    return job_id if job_id is not None else "raw:" + hashlib.blake2b(item, digest_size=16).hexdigest()


class Attempts:
    """Counts by Kestrel key and job; the oldest entries go when there are more than `limit`."""

    def __init__(self, limit: int = 100_000) -> None:
        self._limit = limit
        self._returns: OrderedDict[tuple[str, str], int] = OrderedDict()

    def of(self, key: str, known_by: str, written: int) -> int:
        """The attempt a delivery is: what the envelope says, and the returns seen here."""
        return written + self._returns.get((key, known_by), 0)

    def returned(self, key: str, known_by: str, count: int = 1) -> None:
        """The job is, or is about to be, back at the head."""
        at = (key, known_by)
        self._returns[at] = self._returns.get(at, 0) + count
        self._returns.move_to_end(at)
        if len(self._returns) > self._limit:
            self._returns.popitem(last=False)

    def forget(self, key: str, known_by: str) -> int:
        """The job has left the queue, or its copy says how often it was delivered. What was counted."""
        return self._returns.pop((key, known_by), 0)

    def ended(self, lease: Lease) -> None:
        """Listens to the registry: counts what ended without a settlement that has counted itself."""
        if lease.state in _DONE:
            self.forget(lease.key, lease.known_by)
        elif lease.settlement is None or lease.state not in _LEFT_OUR_WAY:
            self.returned(lease.key, lease.known_by)
