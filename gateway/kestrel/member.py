"""Commands on the queues of one server, for queues whose items belong on a certain server. Does not choose servers.

Internal queues of the gateway need this: other queues are one queue over all servers (gateway.kestrel.client).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial

from gateway.errors import GatewayError, Unavailable
from gateway.kestrel.health import Health
from gateway.kestrel.link import ServerLink, TakenItem
from gateway.kestrel.polls.values import EndReason, Get, ServerQueue
from gateway.queue_stats import QueueStats


class Member:
    """One server. Two members are equal if they are the same link to a server."""

    __slots__ = ("_link",)

    def __init__(self, link: ServerLink) -> None:
        self._link = link

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Member) and other._link is self._link

    def __hash__(self) -> int:
        return hash(self._link)

    @property
    def name(self) -> str:
        """The server's name (Address.name)."""
        return self._link.address.name

    @property
    def reads(self) -> bool:
        """Whether it delivers items."""
        return self._link.health.reads

    @property
    def writes(self) -> bool:
        """Whether it accepts items."""
        return self._link.health.state is Health.UP

    async def peek(self, key: str) -> bytes | None:
        """The head item, which stays on the queue; None if there is none. May create the queue.

        Raises BackendUnavailable.
        """
        return await self._link.peek(key)

    async def stats(self, key: str) -> QueueStats | None:
        """The queue's figures; None if the server does not have it. Raises BackendUnavailable."""
        return (await self.figures([key])).get(key)

    async def figures(self, keys: Sequence[str]) -> Mapping[str, QueueStats]:
        """The figures of those queues that the server has. Raises BackendUnavailable."""
        return await self._link.stats(keys)

    async def put(self, key: str, data: bytes) -> None:
        """Stores the item at the tail: the server has answered STORED.

        Raises: QueueFull, JobTooLarge; BackendUnavailable if nothing was sent, BackendRefused if the server refused;
        OutcomeUnknown. Cancelled: it may be stored.
        """
        outcomes: list[GatewayError | None] = []
        await self._link.store([(key, data, 0)], lambda _, errors: outcomes.extend(errors))
        if outcomes[0] is not None:
            raise outcomes[0]

    async def take(self, key: str, tenant: str = "") -> TakenItem | None:
        """The head item, set aside for the caller; None if there is none now. Does not wait for one.

        tenant: for which the item counts. Raises: BackendUnavailable; TooManyLeases if the server may hold no further
        item for the tenant. Cancelled: an item that was about to come goes back.
        """
        answer: asyncio.Future[TakenItem | None] = asyncio.get_running_loop().create_future()
        link = self._link.queue(key, tenant, lambda _: 0.0, partial(_answered, answer))
        if link.figures(0).item_room <= 0:
            raise link.trouble(EndReason.FULL, None)
        get = link.get(Get(ServerQueue(link, limit=1), waits=False, placed=False, number=0, begun_at=0.0))
        get.start()
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                item = answer.result()
                if item is not None:
                    item.give_back()
            get.close()
            raise


def _answered(
    answer: asyncio.Future[TakenItem | None], _get: Get, item: TakenItem | None, error: Unavailable | None
) -> None:
    if answer.done():
        if item is not None:
            item.give_back()
    elif error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(item)
