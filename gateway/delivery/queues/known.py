"""The queues of each tenant, as far as this worker knows: learned from requests, corrected in the background.

Kestrel can only list all queues at once, for every tenant. So no request asks for that list: requests use what is
known, and one correction at a time asks for all queues.

1. Corrections are PAUSE_S apart, plus PAUSE_A_QUEUE_S per queue, so they take a small, constant part of the event loop
   however many queues there are.
2. What was learned during a correction, or is being created, stays known although Kestrel did not list it.
3. Requests wait only for the very first correction, and for one that is due within SOON_S.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from gateway.delivery.backend import Backend
from gateway.delivery.queues.catalog import Catalog, Queue
from gateway.errors import BackendUnavailable
from gateway.fairness.turns import Turns

log = logging.getLogger(__name__)

PAUSE_S: Final = 0.05
PAUSE_A_QUEUE_S: Final = 0.0005
"""A correction costs about 20 us per queue, on the loops of a worker and of the embedded broker: 4 % of them."""
SOON_S: Final = 0.1


class KnownQueues:
    """Every queue by its tenant, fanout children included. Dead letters do not count as queues of a tenant."""

    def __init__(self, backend: Backend, catalog: Catalog, turns: Turns) -> None:
        self._backend = backend
        self._catalog = catalog
        self._turns = turns
        self._keys: dict[str, set[str]] = {}
        self._unreachable: dict[str, set[str]] = {}
        self._began_s = float("-inf")
        self._next_s = float("-inf")
        self._correction: asyncio.Task[bool] | None = None
        self._learnt: set[tuple[str, str]] = set()
        self._forgotten: set[tuple[str, str]] = set()
        self._making: Counter[tuple[str, str]] = Counter()

    def has(self, queue: Queue) -> bool:
        """Whether the queue exists, as far as is known."""
        keys = self._keys.get(queue.tenant)
        return keys is not None and queue.key in keys

    def count(self, tenant: str) -> int:
        """The number of the tenant's queues."""
        return len(self._keys.get(tenant, ()))

    def keys(self, tenant: str) -> list[str]:
        """Kestrel's keys of the tenant's queues, sorted; then the keys of queues that no request can name."""
        return [*sorted(self._keys.get(tenant, ())), *sorted(self._unreachable.get(tenant, ()))]

    def learn(self, queue: Queue) -> None:
        """The queue exists."""
        self._keys.setdefault(queue.tenant, set()).add(queue.key)
        self._learnt.add((queue.tenant, queue.key))
        self._forgotten.discard((queue.tenant, queue.key))

    def forget(self, queue: Queue) -> None:
        """The queue was deleted."""
        self._keys.get(queue.tenant, set()).discard(queue.key)
        self._forgotten.add((queue.tenant, queue.key))
        self._learnt.discard((queue.tenant, queue.key))

    @contextmanager
    def making(self, queue: Queue) -> Iterator[None]:
        """Within the context the queue counts as existing, whatever Kestrel says, because it is being created."""
        at = (queue.tenant, queue.key)
        self.learn(queue)
        self._making[at] += 1
        try:
            yield
        finally:
            self._making[at] -= 1
            if not self._making[at]:
                del self._making[at]

    async def corrected(self, since_s: float = 0.0) -> bool:
        """Whether Kestrel was asked after `since_s` (monotonic), or ever. Returns when it was asked or cannot be.

        Cancelled: the correction continues.
        """
        while self._began_s < since_s:
            if not await asyncio.shield(self.correct_later()):
                return False
        return True

    async def corrected_if_soon(self, since_s: float) -> bool:
        """Like `corrected` if that takes at most SOON_S plus a correction's own time; otherwise False at once."""
        soon = self._next_s - time.monotonic() <= SOON_S
        if soon or self._began_s < 0:
            return await self.corrected(since_s)
        self.correct_later()
        return False

    def refresh(self, since_s: float) -> None:
        """Starts asking Kestrel in the background, unless it was asked after `since_s`."""
        if self._began_s < since_s:
            self.correct_later()

    def correct_later(self) -> asyncio.Task[bool]:
        """The next correction, which starts as soon as rule 1 allows. Its result: whether Kestrel could be asked."""
        if self._correction is None:
            self._correction = asyncio.get_running_loop().create_task(self._correct(), name="correction of queues")
        return self._correction

    async def _correct(self) -> bool:
        try:
            await asyncio.sleep(max(0.0, self._next_s - time.monotonic()))
            began_s = time.monotonic()
            self._learnt.clear()
            self._forgotten.clear()
            keys = await self._backend.keys()
            found: dict[str, set[str]] = {}
            unreachable: dict[str, set[str]] = {}
            async for key in self._turns.slices(keys):
                if (name := self._catalog.owner_of(key)) is not None:
                    found.setdefault(name.tenant, set()).add(key)
                elif (tenant := self._catalog.unreachable_for(key)) is not None:
                    unreachable.setdefault(tenant, set()).add(key)
            for tenant, key in (*self._learnt, *self._making):
                found.setdefault(tenant, set()).add(key)
            for tenant, key in self._forgotten:
                found.get(tenant, set()).discard(key)
            self._keys, self._unreachable = found, unreachable
            self._began_s = began_s
            self._next_s = time.monotonic() + max(PAUSE_S, PAUSE_A_QUEUE_S * len(keys))
            return True
        except BackendUnavailable:
            return False
        except Exception:
            log.exception("listing the queues failed")
            return False
        finally:
            self._correction = None
