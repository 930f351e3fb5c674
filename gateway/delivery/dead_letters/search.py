"""A search through a queue's dead letters: takes them from the head of each server, and gives them back in order.

Kestrel shows only the head of a queue, so a search takes one dead letter after the other, each on a connection of its
own. Other consumers do not see those meanwhile.

1. Servers are searched at the same time, each from its oldest dead letter on.
2. What was taken goes back one after the other, the newest first, because each goes to the head. So a queue keeps its
   order, whatever another consumer takes meanwhile.
3. A search takes at most SEARCHED dead letters and SEARCHED_BYTES on a server, and begins no take after LONGEST_S.
4. If the worker dies, Kestrel puts them back in any order. None is lost.

Source of 2: kestrel-wire.md, "Reliable reads".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from gateway.coverage import Coverage
from gateway.delivery.backend import BackendMember
from gateway.delivery.dead_letters.redrive import LONGEST_S  # many proxies do not wait longer for a request
from gateway.errors import Unavailable
from gateway.leases.lease import OpenRead

SEARCHED: Final = 1000
SEARCHED_BYTES: Final = 64 << 20


Look = Callable[[int, OpenRead], bool]
"""Looks at a dead letter that was taken on the server with that number; returns whether to search it further."""


@dataclass(slots=True)
class _Part:
    """The search on one server. taken: in order. trouble: why it could not be searched. ended: no more are there."""

    server: BackendMember
    taken: list[OpenRead] = field(default_factory=list)
    trouble: Unavailable | None = None
    ended: bool = False


class Search:
    """One search of `key`. The caller awaits `run` and then `give_back`, which must not be cancelled.

    A read that the caller settles in between is left out.
    """

    def __init__(self, servers: Sequence[BackendMember], key: str, tenant: str) -> None:
        self._key = key
        self._tenant = tenant
        self._total = len(servers)
        self._parts = [_Part(server) for server in servers if server.reads]
        self._stopped = False

    @property
    def coverage(self) -> Coverage:
        """How many servers were searched without trouble."""
        return Coverage(sum(part.trouble is None for part in self._parts), self._total)

    @property
    def trouble(self) -> Unavailable | None:
        """Why a server could not be searched."""
        return next((part.trouble for part in self._parts if part.trouble is not None), None)

    @property
    def whole(self) -> bool:
        """Whether every dead letter that was on the searched servers was looked at."""
        return all(part.ended for part in self._parts if part.trouble is None)

    async def run(self, look: Look, *, most: int = SEARCHED) -> None:
        """Takes dead letters and looks at each, until `stop`; at most `most` on a server."""
        until_s = time.monotonic() + LONGEST_S
        work = (self._search(part, partial(look, n), most, until_s) for n, part in enumerate(self._parts))
        for error in await asyncio.gather(
            *work, return_exceptions=True
        ):  # what was taken goes back when all have ended
            if error is not None:
                raise error

    def stop(self) -> None:
        """Takes no further dead letter."""
        self._stopped = True

    async def give_back(self) -> None:
        """Puts back what is still set aside (rule 2)."""
        await asyncio.gather(*(_give_back(part.taken) for part in self._parts))

    async def others_hold_some(self) -> bool:
        """Whether other consumers have taken dead letters that may come back. Raises BackendUnavailable."""
        found = await asyncio.gather(*(part.server.stats(self._key) for part in self._parts if part.trouble is None))
        return any(stats is not None and stats.open_reads for stats in found)

    async def _search(self, part: _Part, look: Callable[[OpenRead], bool], most: int, until_s: float) -> None:
        size = 0
        while not self._stopped and len(part.taken) < most and size < SEARCHED_BYTES and time.monotonic() < until_s:
            try:
                read = await part.server.take(self._key, self._tenant)
            except Unavailable as error:
                part.trouble = error
                return
            if read is None:
                part.ended = True
                return
            part.taken.append(read)
            size += len(read.data)
            if not look(read):
                return


async def _give_back(taken: Sequence[OpenRead]) -> None:
    for read in reversed(taken):
        await read.abort()
