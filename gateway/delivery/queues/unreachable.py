"""Queues that memcache clients created under names that HTTP cannot express. Each is logged once.

One worker looks for them in the background from time to time. `GET /queues` lists such queues, too.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from gateway.delivery.backend import Backend
from gateway.delivery.queues.catalog import Catalog
from gateway.errors import GatewayError
from gateway.fairness.turns import Turns

log = logging.getLogger(__name__)

FIRST_LOOK_S: Final = 2.0
LOOK_EVERY_S: Final = 60.0
"""The first look comes when servers are connected; later ones are rare, because each costs the names of all queues."""
MOST_LOGGED: Final = 100


class UnreachableQueues:
    """Logs each queue once. At most MOST_LOGGED queues, so that a client that invents names cannot fill the log."""

    def __init__(self, backend: Backend, catalog: Catalog, turns: Turns) -> None:
        self._backend = backend
        self._catalog = catalog
        self._turns = turns
        self._logged: set[str] = set()

    async def watch(self) -> None:
        """Runs until it is cancelled. Cancelled: nothing is left behind."""
        await asyncio.sleep(FIRST_LOOK_S)
        while True:
            try:
                await self.look()
            except GatewayError as exc:
                log.debug("names of queues: %s", exc)
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Logs every such queue. Raises BackendUnavailable."""
        async for key in self._turns.slices(await self._backend.keys()):
            if len(self._logged) < MOST_LOGGED and key not in self._logged and self._catalog.is_unreachable(key):
                self._logged.add(key)
                log.warning(
                    "queue %r: HTTP cannot reach it, because no request can name it; "
                    "give it a name with `key` in a policy (docs/policies.md)",
                    key,
                )
                if len(self._logged) == MOST_LOGGED:
                    log.warning("%d queues have such names; further ones are not logged", MOST_LOGGED)
