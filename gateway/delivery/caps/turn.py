"""One caller for each name at a time, in all workers of a gateway, in the order of asking.

It is a place of a queue with `max_in_flight = 1` (gateway.delivery.caps.counter), so the turn of a worker that is
killed ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from gateway.delivery.caps.counter import CapLimits
from gateway.delivery.caps.link import CapLink

_ONE: Final = CapLimits(max_in_flight=1)


class GatewayTurns:
    """The turns of one purpose. Their names are no keys of queues: `purpose` contains a space."""

    def __init__(self, link: CapLink, purpose: str, limit_s: float) -> None:
        self._link = link
        self._purpose = purpose
        self._limit_s = limit_s

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[None]:
        """Within the context no other caller has the turn with that name.

        Raises TimeoutError after `limit_s`. Cancelled: the caller has no turn.
        """
        number, given = self._link.ask(self._purpose + name, _ONE)
        try:
            async with asyncio.timeout(self._limit_s):
                await asyncio.shield(given)
        except BaseException:
            if given.done() and not given.cancelled():
                self._link.done(number)
            else:
                given.cancel()  # a turn that is given nevertheless is returned
                self._link.stop(number)
            raise
        try:
            yield
        finally:
            self._link.done(number)
