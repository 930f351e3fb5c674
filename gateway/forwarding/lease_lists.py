"""Lists the open leases of a queue that the workers of this gateway hold. Other replicas are not asked."""

from __future__ import annotations

import time
from functools import reduce
from operator import add

from gateway.errors import LeaseForgotten
from gateway.forwarding.commands import LeaseCommand, Result, Verb
from gateway.forwarding.workers import WorkerLinks
from gateway.leases.open_leases import OpenLeases, open_leases
from gateway.leases.registry import Registry


class LeaseLists:
    """limit_s: how long the other workers are waited for."""

    def __init__(self, registry: Registry, links: WorkerLinks, limit_s: float) -> None:
        self._registry = registry
        self._links = links
        self._limit_s = limit_s

    def own(self, key: str) -> OpenLeases:
        """The leases that this worker holds on the queue with the key."""
        return open_leases(self._registry.leases.open(), key)

    async def of(self, key: str) -> OpenLeases:
        """The leases that all workers hold. Incomplete if one does not answer in time."""
        command = LeaseCommand(Verb.LIST_LEASES, key, time.monotonic() + self._limit_s)
        told = await self._links.broadcast(command.passed_on())
        return reduce(add, map(_leases, told), self.own(key))


def _leases(result: Result | BaseException) -> OpenLeases:
    if isinstance(result, OpenLeases):
        return result
    return OpenLeases(complete=isinstance(result, LeaseForgotten))  # the socket of a worker that died earlier
