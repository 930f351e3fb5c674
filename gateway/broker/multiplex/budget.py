"""How many bytes the open items of one worker may have, in total and per tenant. Counts; sends nothing.

The worker holds the same items, so this bounds the memory of both. The worker sets the limit and the share in its
greeting, and names the tenant of each open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from gateway.broker.queues.queue import PersistentQueue
from gateway.broker.queues.reads import Settler
from gateway.broker.queues.serving import serve_soon
from gateway.common.multiplex.messages import SHARE_UNITS, Greeting
from gateway.common.shares import Shares


class OpenBytes:
    """The bytes of a worker's open items, by tenant. An item counts from its delivery until it is settled on disk."""

    __slots__ = ("_held", "_loop", "_passed", "_shares")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._shares: Shares | None = None  # None: no limit
        self._held: dict[int, tuple[str, int]] = {}  # by open read: tenant and size
        self._passed: dict[Settler, None] = {}  # queues whose next item had no room

    def __repr__(self) -> str:
        return f"<OpenBytes {self._shares!r}>"

    def greeted(self, greeting: Greeting) -> None:
        """Uses the limit of the worker's greeting from now on."""
        if greeting.open_bytes:
            self._shares = Shares(greeting.open_bytes, greeting.share / SHARE_UNITS)

    def admits(self, tenant: str, size: int) -> bool:
        """Whether the tenant may have a further item of `size` bytes open."""
        return self._shares is None or self._shares.admits_item(tenant, size)

    def take(self, id_: int, tenant: str, size: int) -> None:
        """The open read with this id begins."""
        if self._shares is not None:
            self._held[id_] = tenant, size
            self._shares.take(tenant, size)

    def has_room(self, tenant: str, queue: PersistentQueue) -> bool:
        """Whether the next item of the queue, if it has one, has room. If not, the queue serves when room returns."""
        ready = queue.backlog.ready
        if not ready or self.admits(tenant, len(ready[0].data)):
            return True
        self._passed[queue] = None
        return False

    def give_back(self, ids: Iterable[int]) -> None:
        """These reads are settled. Queues whose next item had no room serve again, soon."""
        shares = self._shares
        if shares is None:
            return
        for id_ in ids:
            found = self._held.pop(id_, None)
            if found is not None:
                shares.give_back(*found)
        if self._passed:
            queues, self._passed = self._passed, {}
            self._loop.call_soon(serve_soon, self._loop, queues)
