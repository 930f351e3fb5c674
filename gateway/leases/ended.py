"""How leases ended, for a while, so that a repeated settlement gets the same answer. Keeps no job and no connection."""

from __future__ import annotations

import time
from collections import deque

from gateway.leases.batch import batch_record
from gateway.leases.lease import Lease, LeaseRecord


class EndedLeases:
    """Remembers at most `limit` ended leases, each for `memory_s` seconds; the oldest is forgotten first."""

    def __init__(self, *, memory_s: float, limit: int) -> None:
        self._memory_s = memory_s
        self._limit = limit
        self._ended: dict[str, LeaseRecord] = {}
        self._order: deque[tuple[float, str]] = deque()  # when each ended, monotonic, and its id
        self._of_batches = 0  # the jobs of batches, less one for each batch

    def __len__(self) -> int:
        return len(self._ended) + self._of_batches

    def add(self, record: LeaseRecord) -> None:
        """Remembers the lease, which has ended, with its state. A batch counts as many times as it has jobs."""
        self._ended[record.id] = record
        now_s = time.monotonic()
        self._order.append((now_s, record.id))
        self._of_batches += len(record.jobs) - 1 if record.jobs else 0
        self._forget(now_s)

    def replace(self, lease: Lease) -> None:
        """The state of an ended lease is known better now."""
        if lease.id in self._ended and not lease.batch_id:
            self._ended[lease.id] = lease.record()
        elif (batch := self._ended.get(lease.batch_id)) is not None:
            jobs = [lease.record() if each.id == lease.id else each for each in batch.jobs]
            self._ended[batch.id] = batch_record(batch.id, jobs, mixed=batch.mixed)

    def get(self, lease_id: str) -> LeaseRecord | None:
        self._forget(time.monotonic())
        return self._ended.get(lease_id)

    def _forget(self, now_s: float) -> None:
        oldest_s = now_s - self._memory_s
        order = self._order
        while order and (order[0][0] <= oldest_s or len(order) + self._of_batches > self._limit):
            jobs = self._ended.pop(order.popleft()[1]).jobs
            self._of_batches -= len(jobs) - 1 if jobs else 0
