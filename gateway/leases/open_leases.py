"""The open leases of a queue, as people may see them. Pure values, which travel between workers."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from gateway.leases.lease import Lease

MAX_LISTED: Final = 1000
"""Leases in one list. As JSON they are less than what fits in a message between workers."""


@dataclass(frozen=True, slots=True)
class OpenLease:
    """lease: a part of its id, enough to tell leases apart; with the whole id anyone could settle it. The jobs of a
    batch have that of their batch. holder: the name of the key that took the job, or empty. taken_at_s, expires_at_s:
    Unix time. bytes: the size of the item."""

    lease: str
    job_id: str | None
    state: str
    holder: str
    attempt: int
    taken_at_s: float
    expires_at_s: float
    bytes: int


@dataclass(frozen=True, slots=True)
class OpenLeases:
    """The oldest leases of a queue, the oldest first. left: how many more there are. complete: whether every worker of
    the gateway told its leases."""

    leases: tuple[OpenLease, ...] = ()
    left: int = 0
    complete: bool = True

    def __add__(self, other: OpenLeases) -> OpenLeases:
        """The leases of two workers together."""
        merged = heapq.merge(self.leases, other.leases, key=lambda each: each.taken_at_s)
        whole = tuple(merged)
        left = self.left + other.left + max(0, len(whole) - MAX_LISTED)
        return OpenLeases(whole[:MAX_LISTED], left, self.complete and other.complete)


def short_id(lease_id: str) -> str:
    """Eight characters of the id, as in the log."""
    return lease_id[16:24]


def open_leases(leases: Iterable[Lease], key: str) -> OpenLeases:
    """Those of the queue with Kestrel's key `key`. leases: in the order of delivery."""
    found = [lease for lease in leases if lease.key == key]
    now_s, now_wall_s = time.monotonic(), time.time()
    shown = (
        OpenLease(
            lease=short_id(lease.batch_id or lease.id),
            job_id=lease.job_id,
            state=lease.state.value,
            holder=lease.holder,
            attempt=lease.attempt,
            taken_at_s=now_wall_s - (now_s - lease.begun_s),
            expires_at_s=lease.expires_at_s,
            bytes=len(lease.read.data) if lease.read is not None else 0,
        )
        for lease in found[:MAX_LISTED]
    )
    return OpenLeases(tuple(shown), max(0, len(found) - MAX_LISTED))
