"""How often this worker saw a job return to its queue. In memory and bounded, so a lower bound.

A job that returns to the head keeps its bytes, and so the attempt in its envelope; later attempts are counted here. A
raw item has no attempt and no id. It is identified by the digest of its bytes, so equal items are counted together.

A job may be delivered again before Kestrel answers the command that gives it back. Therefore a return is counted, and
the count of a copied job is forgotten, before the command is sent.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from typing import Final

from gateway.leases.lease import Lease, State

_HASHED_AT_ONCE: Final = 1 << 20
"""Bytes of an item: 1 to 2 ms."""
_DONE = frozenset({State.ACKED, State.DROPPED})
_MOVED_BY_SETTLEMENT = frozenset({State.NACKED, State.DELAYED, State.REJECTED, State.EXPIRED})


def identity(job_id: str | None, item: bytes) -> str:
    """The key under which a job is counted here."""
    return job_id if job_id is not None else "raw:" + hashlib.blake2b(item, digest_size=16).hexdigest()


async def identity_of(job_id: str | None, item: bytes) -> str:
    """As `identity`; a large raw item is hashed beside the loop: 60 MiB take 100 ms."""
    if job_id is not None or len(item) <= _HASHED_AT_ONCE:
        return identity(job_id, item)
    return await asyncio.to_thread(identity, None, item)


class Attempts:
    """Counts by Kestrel key and job. Above `limit` entries the oldest are forgotten."""

    def __init__(self, limit: int = 100_000) -> None:
        self._limit = limit
        self._returns: OrderedDict[tuple[str, str], int] = OrderedDict()

    def of(self, key: str, known_by: str, written: int) -> int:
        """The number of this attempt: the one in the envelope plus the returns seen here."""
        return written + self._returns.get((key, known_by), 0)

    def returned(self, key: str, known_by: str, count: int = 1) -> None:
        """The job is back at the head, or is about to be."""
        at = (key, known_by)
        self._returns[at] = self._returns.get(at, 0) + count
        self._returns.move_to_end(at)
        if len(self._returns) > self._limit:
            self._returns.popitem(last=False)

    def not_delivered(self, key: str, known_by: str) -> None:
        """Takes back the last return that was counted: the job was not delivered."""
        at = (key, known_by)
        if (left := self._returns.get(at, 0) - 1) > 0:
            self._returns[at] = left
        else:
            self._returns.pop(at, None)

    def forget(self, key: str, known_by: str) -> int:
        """The job has left the queue, or its copy holds the number of attempts. Returns the count."""
        return self._returns.pop((key, known_by), 0)

    def ended(self, lease: Lease) -> None:
        """A listener of the registry: counts leases that ended without a settlement that counts the attempt itself."""
        if lease.state in _DONE:
            self.forget(lease.key, lease.known_by)
        elif lease.settlement is None or lease.state not in _MOVED_BY_SETTLEMENT:
            self.returned(lease.key, lease.known_by)
