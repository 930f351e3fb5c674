"""How many queues a tenant may have. Kestrel makes a queue of whatever is asked for, so asking is counted.

A worker knows the keys that there are and asks Kestrel again only when a queue it does not know shows up: where there
is room by what it knows, at most once in REFRESH_S; where there is none, always, since a queue may have been deleted
elsewhere. What is being made counts, though Kestrel does not name it yet. Hence the cap is exact within one worker;
several that make queues in the same moment may exceed it, each by what was made elsewhere since it last looked.
Nobody waits for a server that is silent while others answer: it counts with the queues that it named last.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

from gateway.delivery.backend import Backend
from gateway.delivery.catalog import Catalog, Queue
from gateway.errors import BackendUnavailable, TooManyQueues

REFRESH_S: Final = 1.0
PACE_S: Final = 0.05
"""Between two looks, whoever is refused meanwhile: the figures of ten thousand queues are megabytes."""
_THERE: Final = nullcontext()


class Quota:
    """Lets a tenant use the queues he has, and make new ones up to `limit`."""

    def __init__(self, backend: Backend, catalog: Catalog, limit: int) -> None:
        self._backend = backend
        self._catalog = catalog
        self._limit = limit
        self._look: asyncio.Task[None] | None = None
        self._waiting: list[tuple[float, asyncio.Future[bool]]] | None = None  # since when; None: nobody waits
        self._looked_s = float("-inf")
        self._keys: frozenset[str] = frozenset()
        self._known: dict[str, set[str]] = {}
        self._making: Counter[str] = Counter()

    async def room(self, queue: Queue) -> AbstractContextManager[None]:
        """Within the context that is returned the queue may be used: it is there, or is made. Raises TooManyQueues.

        Callers leave in the order they came: polls keep their places. Where no server can be asked it may be used, too:
        whatever comes next says so itself.
        """
        known = self._known.get(queue.tenant)
        if self._waiting is None and known is not None and queue.key in known:
            return _THERE
        came_s = time.monotonic()
        for since_s in (came_s - REFRESH_S, came_s):
            if not await self._seen(since_s):
                return _THERE
            known = self._of(queue.tenant)
            if queue.key in known:
                return _THERE
            if len(known) < self._limit:
                known.add(queue.key)
                return _counted(self._making, queue.key)
        raise TooManyQueues(f"{self._limit} queues are there already, as many as may be; delete one first")

    def forget(self, queue: Queue) -> None:
        """The queue was deleted: it does not count any more."""
        self._known.get(queue.tenant, set()).discard(queue.key)
        self._keys -= {queue.key}

    async def _seen(self, since_s: float) -> bool:
        """Whether Kestrel was asked since then. Callers share one look and leave in the order they came."""
        loop = asyncio.get_running_loop()
        if self._waiting is None:
            if self._looked_s >= since_s:
                return True
            self._waiting = []
            self._look = loop.create_task(self._ask())
        future: asyncio.Future[bool] = loop.create_future()
        self._waiting.append((since_s, future))
        return await future

    async def _ask(self) -> None:
        answered = False
        try:
            await asyncio.sleep(self._looked_s + PACE_S - time.monotonic())
            began_s = time.monotonic()
            self._keys = await self._backend.keys()
            self._known.clear()
            self._looked_s = began_s
            answered = True
        except BackendUnavailable:
            pass
        finally:
            self._wake(answered)

    def _wake(self, answered: bool) -> None:
        """Lets go whoever the look serves, all in one turn; in the next one those who came meanwhile, behind them."""
        assert self._waiting is not None
        served = [future for since_s, future in self._waiting if not answered or since_s <= self._looked_s]
        self._waiting = [each for each in self._waiting if answered and each[0] > self._looked_s]
        for future in served:
            if not future.done():
                future.set_result(answered)
        loop = asyncio.get_running_loop()
        if served:
            loop.call_soon(self._wake, True)
        elif self._waiting:
            self._look = loop.create_task(self._ask())
        else:
            self._waiting = None

    def _of(self, tenant: str) -> set[str]:
        known = self._known.get(tenant)
        if known is None:
            named = self._catalog.name_of
            found = {key for key in (*self._keys, *self._making) if named(tenant, key) is not None}
            known = self._known[tenant] = found
        return known


@contextmanager
def _counted(counter: Counter[str], key: str) -> Iterator[None]:
    counter[key] += 1
    try:
        yield
    finally:
        counter[key] -= 1
        if not counter[key]:
            del counter[key]
