"""The unsettled jobs of one stream, and its room for more. No I/O.

1. The window counts as `jobs` open leases of the tenant from its opening to its close, however many are open.
2. A job leaves the window when its lease ends in any way, or waits as a delayed nack.
3. There is room while the window has fewer than `jobs` jobs, and fewer than `limit_bytes` bytes of them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, MutableMapping
from typing import Final

from gateway.leases.lease import Lease, State
from gateway.leases.limits import LeaseLimits

UNWRITTEN: Final = math.inf
"""The place in the stream of a job that is not yet written."""


class WindowJob:
    """A job in the window. ends_at: the place in the stream, in bytes, where the job ends."""

    __slots__ = ("ends_at", "lease", "size")

    def __init__(self, lease: Lease, size: int) -> None:
        self.lease = lease
        self.size = size
        self.ends_at: float = UNWRITTEN


class StreamWindow:
    """windows: the window of each lease, of all streams. jobs, limit_bytes: see rule 3.

    on_expired: called when the lease of a job expires, with the place where the job ends in the stream. settled: how
    many jobs have left the window in another way. Raises TooManyLeases if the tenant has no room for it.
    """

    def __init__(
        self,
        windows: MutableMapping[str, StreamWindow],
        limits: LeaseLimits,
        tenant: str,
        *,
        jobs: int,
        limit_bytes: int,
        on_expired: Callable[[float], None],
    ) -> None:
        limits.reserve(tenant, jobs)
        self.jobs = jobs
        self.settled = 0
        self._windows = windows
        self._limits = limits
        self._tenant = tenant
        self._limit_bytes = limit_bytes
        self._on_expired = on_expired
        self._held: dict[str, WindowJob] = {}
        self._bytes = 0
        self._closed = False
        self._changed = asyncio.Event()

    @property
    def room(self) -> int:
        """How many more jobs may be taken."""
        return self.jobs - len(self._held) if self._bytes < self._limit_bytes else 0

    @property
    def expiring(self) -> int:
        """How many leases have reached their deadline and have not ended, because their jobs are being moved."""
        settling = (job.lease.disposition for job in self._held.values() if job.lease.state is State.SETTLING)
        return sum(each is not None and each.state is State.EXPIRED for each in settling)

    def wake(self) -> None:
        """Ends the wait for room."""
        self._changed.set()

    async def change(self) -> None:
        """Returns when there may be room."""
        self._changed.clear()
        await self._changed.wait()

    def check_room(self, tenant: str, size: int = 0) -> None:
        """See LeaseLimits.check_room. The jobs of the window count already."""
        self._limits.check_bytes(tenant, size)

    def add(self, lease: Lease) -> bool:
        """A job was taken. False if its lease has ended already."""
        if lease.read is None:
            return False
        job = WindowJob(lease, len(lease.read.data))
        self._held[lease.id] = job
        self._windows[lease.id] = self
        self._bytes += job.size
        self._limits.release(self._tenant, 1)
        return True

    def written(self, lease: Lease, ends_at: int) -> None:
        """The job was written."""
        if (job := self._held.get(lease.id)) is not None:
            job.ends_at = ends_at

    def left(self, lease: Lease) -> None:
        """The lease has ended, or waits as a delayed nack."""
        job = self._held.pop(lease.id)
        self._bytes -= job.size
        if not self._closed:
            self._limits.take(self._tenant, 1)
        self._changed.set()
        if lease.state is State.EXPIRED:
            self._on_expired(job.ends_at)
        else:
            self.settled += 1

    def jobs_beyond(self, place: int) -> list[WindowJob]:
        """The jobs that end behind that place in the stream, in the order of delivery."""
        return [job for job in self._held.values() if job.ends_at > place]

    def close(self) -> None:
        """The stream is over: from now on only its open leases count."""
        if not self._closed:
            self._closed = True
            self._limits.release(self._tenant, self.jobs - len(self._held))
