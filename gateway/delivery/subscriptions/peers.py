"""Asks the other workers of this gateway when a subscription is created or deleted. Other replicas are not asked."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.errors import LeaseForgotten
from gateway.forwarding.commands import LeaseCommand, Result, Verb
from gateway.forwarding.workers import WorkerLinks


class PeerWorkers:
    """limit_s: how long they are waited for; one that does not answer by then is left out."""

    def __init__(self, links: WorkerLinks, limit_s: float) -> None:
        self._links = links
        self._limit_s = limit_s

    async def end_polls(self, key: str) -> None:
        """They have no poll of the queue any more."""
        await self._tell(Verb.END_POLLS, key)

    async def have(self, key: str) -> bool:
        """Whether every member that they write to has the child, which they create where it is missing.

        They may have members that this worker does not have yet, or no longer.
        """
        results = await self._tell(Verb.ENSURE_CHILD, key)
        return all(result == 0 for result in results if not isinstance(result, LeaseForgotten))

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[None]:
        """Within the context they put nothing on the queue, for at most twice `limit_s`."""
        await self._tell(Verb.HOLD_PUTS, key)
        try:
            yield
        finally:
            await self._tell(Verb.RELEASE_PUTS, key)

    async def _tell(self, verb: Verb, key: str) -> list[Result | BaseException]:
        command = LeaseCommand(verb, key, time.monotonic() + self._limit_s, length_s=2 * self._limit_s)
        return await self._links.broadcast(command.passed_on())
