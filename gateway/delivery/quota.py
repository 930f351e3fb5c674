"""How many queues a tenant may have. Kestrel makes a queue of whatever is asked for, so asking is counted.

A worker knows the keys that there are and asks Kestrel again only when a queue it does not know shows up, at most once
in REFRESH_S. Hence the cap is exact within one worker; several that make queues in the same moment may exceed it, each
by what it made since it last looked.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from gateway.delivery.backend import Backend
from gateway.delivery.catalog import Catalog, Queue
from gateway.errors import BackendUnavailable, TooManyQueues

REFRESH_S: Final = 1.0


class Quota:
    """Lets a tenant use the queues he has, and make new ones up to `limit`."""

    def __init__(self, backend: Backend, catalog: Catalog, limit: int) -> None:
        self._backend = backend
        self._catalog = catalog
        self._limit = limit
        self._lock = asyncio.Lock()
        self._looked_s = float("-inf")
        self._keys: frozenset[str] = frozenset()
        self._known: dict[str, set[str]] = {}

    async def check(self, queue: Queue) -> None:
        """Returns when the queue may be used: it is there, or may be made. Raises TooManyQueues.

        Where no server can be asked it returns too: whatever comes next says so itself.
        """
        known = self._known.get(queue.tenant)
        if known is not None and queue.key in known:
            return
        async with self._lock:
            if time.monotonic() - self._looked_s >= REFRESH_S:
                try:
                    self._keys = frozenset(await self._backend.queues())
                except BackendUnavailable:
                    return
                self._known.clear()
                self._looked_s = time.monotonic()
            known = self._known.get(queue.tenant)
            if known is None:
                named = self._catalog.name_of
                known = self._known[queue.tenant] = {key for key in self._keys if named(queue.tenant, key) is not None}
            if queue.key in known:
                return
            if len(known) >= self._limit:
                raise TooManyQueues(f"{self._limit} queues are there already, as many as may be; delete one first")
            known.add(queue.key)

    def forget(self, queue: Queue) -> None:
        """The queue was deleted: it does not count any more."""
        self._known.get(queue.tenant, set()).discard(queue.key)
        self._keys -= {queue.key}
