"""One caller for each name at a time, in all workers of a gateway, in the order of asking.

It is a place of a queue with `max_in_flight = 1` (gateway.delivery.caps.counter), so the turn of a worker that is
killed ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from gateway.delivery.caps.counter import CapLimits
from gateway.delivery.caps.link import CapLink
from gateway.errors import GatewayError

_ONE: Final = CapLimits(max_in_flight=1)


class GatewayTurns:
    """The turns of one purpose, which contains a space, so that no name is the key of a queue.

    busy: makes the error for a caller whose turn does not come within `limit_s`.
    """

    def __init__(self, link: CapLink, purpose: str, limit_s: float, busy: Callable[[], GatewayError]) -> None:
        self._link = link
        self._purpose = purpose
        self._limit_s = limit_s
        self._busy = busy

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[None]:
        """Within the context no other caller has the turn with that name.

        Raises what `busy` makes. Cancelled: the caller has no turn.
        """
        number, given = self._link.ask(self._purpose + name, _ONE)
        try:
            async with asyncio.timeout(self._limit_s):
                await asyncio.shield(given)
        except BaseException as error:
            self._link.abandon(number, given)
            if isinstance(error, TimeoutError):
                raise self._busy() from error
            raise
        try:
            yield
        finally:
            self._link.done(number)
