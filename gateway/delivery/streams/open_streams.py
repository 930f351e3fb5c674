"""The open streams of a worker, and which of them has which lease."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gateway.delivery.attempts import Attempts
from gateway.delivery.streams.window import StreamWindow, WindowJob
from gateway.leases.lease import Lease
from gateway.leases.registry import Registry


class OpenStream(Protocol):
    """A stream that has not ended."""

    def drain(self) -> None:
        """The gateway shuts down."""

    def check_permission(self) -> None:
        """Ends the stream if its client may not take its jobs any more."""


class OpenStreams:
    """windows: the window of each lease that is in one. limits: of leases."""

    def __init__(self, registry: Registry, attempts: Attempts) -> None:
        self.windows: dict[str, StreamWindow] = {}
        self.limits = registry.limits
        self._registry = registry
        self._attempts = attempts
        self._open: set[OpenStream] = set()
        registry.leases.on_end(self._left)
        registry.leases.on_delay(self._left)

    def __len__(self) -> int:
        return len(self._open)

    def add(self, stream: OpenStream) -> None:
        self._open.add(stream)

    def remove(self, stream: OpenStream) -> None:
        self._open.discard(stream)

    def drain(self) -> None:
        """Ends every stream; its leases stay."""
        for stream in list(self._open):
            stream.drain()

    def keys_changed(self) -> None:
        """Ends each stream whose key is gone, or does not allow it any more."""
        for stream in list(self._open):
            stream.check_permission()

    def give_back(self, jobs: Sequence[WindowJob], sent: int) -> None:
        """Gives the jobs back in their order. sent: a job that ends behind that place in its stream uses no attempt."""
        for job in jobs:
            if job.ends_at > sent and job.lease.read is not None:
                self._attempts.returned(job.lease.key, job.lease.known_by, -1)
        self._registry.give_back_all([job.lease for job in jobs])

    def _left(self, lease: Lease) -> None:
        """A listener of the registry."""
        if (window := self.windows.pop(lease.id, None)) is not None:
            window.left(lease)
