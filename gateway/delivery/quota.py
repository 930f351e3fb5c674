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
REFUSAL_S: Final = 0.05
"""No refusal rests on older figures than this."""


class Quota:
    """Lets a tenant use the queues he has, and make new ones up to `limit`."""

    def __init__(self, backend: Backend, catalog: Catalog, limit: int) -> None:
        self._backend = backend
        self._catalog = catalog
        self._limit = limit
        self._look: asyncio.Task[None] | None = None
        self._waiting: list[asyncio.Future[bool]] | None = None  # who waits for the look; None: nobody looks
        self._looked_s = float("-inf")
        self._keys: frozenset[str] = frozenset()
        self._known: dict[str, set[str]] = {}

    async def check(self, queue: Queue) -> None:
        """Returns when the queue may be used: it is there, or may be made. Raises TooManyQueues.

        Callers leave in the order they came: polls keep their places. Where no server can be asked it returns too:
        whatever comes next says so itself.
        """
        known = self._known.get(queue.tenant)
        if self._waiting is None and known is not None and queue.key in known:
            return
        if not await self._refresh(REFRESH_S):
            return
        known = self._of(queue.tenant)
        if queue.key not in known and len(known) >= self._limit:
            if not await self._refresh(REFUSAL_S):  # one may have been deleted elsewhere
                return
            known = self._of(queue.tenant)
        if queue.key not in known and len(known) >= self._limit:
            raise TooManyQueues(f"{self._limit} queues are there already, as many as may be; delete one first")
        known.add(queue.key)

    def forget(self, queue: Queue) -> None:
        """The queue was deleted: it does not count any more."""
        self._known.get(queue.tenant, set()).discard(queue.key)
        self._keys -= {queue.key}

    async def _refresh(self, age_s: float) -> bool:
        """Whether the keys are known as of `age_s` ago or later. Callers share one look and leave in their order."""
        loop = asyncio.get_running_loop()
        if self._waiting is None:
            if time.monotonic() - self._looked_s < age_s:
                return True
            self._waiting = []
            self._look = loop.create_task(self._ask())
        future: asyncio.Future[bool] = loop.create_future()
        self._waiting.append(future)
        return await future

    async def _ask(self) -> None:
        known = False
        try:
            self._keys = frozenset(await self._backend.queues())
            self._known.clear()
            self._looked_s = time.monotonic()
            known = True
        except BackendUnavailable:
            pass
        finally:
            self._wake(known)

    def _wake(self, known: bool) -> None:
        """Tells who waits; again in the next turn, for those who came meanwhile and must not overtake."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            self._waiting = None
            return
        for future in waiting:
            if not future.done():
                future.set_result(known)
        asyncio.get_running_loop().call_soon(self._wake, known)

    def _of(self, tenant: str) -> set[str]:
        known = self._known.get(tenant)
        if known is None:
            named = self._catalog.name_of
            known = self._known[tenant] = {key for key in self._keys if named(tenant, key) is not None}
        return known
