"""Gathers the statistics of every queue in the background, so that a request reads them without asking Kestrel.

1. Rounds are `interval_s` apart, or WATCHED_S while someone watches, and longer with many queues: a round takes a
   small, constant part of the event loop.
2. `newest` is replaced as a whole after a round, so whoever reads it sees one round.
3. A round that fails changes nothing. Whoever watches sees that the figures are old by their time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.coverage import Coverage, least
from gateway.delivery.backend import Backend
from gateway.delivery.figures.head_ages import HeadAges
from gateway.errors import GatewayError
from gateway.fairness.turns import Turns
from gateway.queue_stats import QueueStats

log = logging.getLogger(__name__)

WATCHED_S: Final = 2.0
PAUSE_A_QUEUE_S: Final = 0.001
"""A round costs about 40 us per queue, on the loops of a worker and of the embedded broker: 4 % of them at most."""
ASKED_AT_ONCE: Final = 200


@dataclass(frozen=True, slots=True)
class Round:
    """What one round found, by Kestrel's keys. number: counts the rounds; 0: there was none yet. at_s: Unix time.
    servers: the figures by server. Ages are those of the waiting jobs. coverage: None if every server answered."""

    number: int = 0
    at_s: float = 0.0
    queues: Mapping[str, QueueStats] = field(default_factory=dict)
    servers: Mapping[str, Mapping[str, QueueStats]] = field(default_factory=dict)
    coverage: Coverage | None = None


class Gatherer:
    """newest: the last round. interval_s: between two rounds while nobody watches."""

    def __init__(self, backend: Backend, ages: HeadAges, turns: Turns, interval_s: float) -> None:
        self.newest = Round()
        self._ages = ages
        self._backend = backend
        self._turns = turns
        self._interval_s = interval_s
        self._listeners: list[Callable[[Round], Awaitable[None]]] = []
        self._watching = 0
        self._wanted = asyncio.Event()
        self._changed = asyncio.Event()
        self._closed = False

    def on_round(self, listener: Callable[[Round], Awaitable[None]]) -> None:
        """Awaits `listener` with each round before it becomes the newest. It works in slices: a round may be large."""
        self._listeners.append(listener)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Within the context rounds are WATCHED_S apart, and the next one begins at once."""
        self._watching += 1
        self._wanted.set()
        try:
            yield
        finally:
            self._watching -= 1

    async def after(self, number: int) -> Round | None:
        """The newest round as soon as it is later than `number`. None: there will be no more."""
        while self.newest.number <= number and not self._closed:
            await self._changed.wait()
        return None if self._closed else self.newest

    def close(self) -> None:
        """There are no more rounds, and nobody waits for one."""
        self._closed = True
        self._changed.set()
        self._wanted.set()

    async def run(self) -> None:
        """Gathers until it is closed."""
        while not self._closed:
            self._wanted.clear()
            try:
                await self._round()
            except GatewayError as exc:
                log.debug("the figures of queues cannot be gathered: %s", exc)
            except Exception:
                log.exception("gathering the figures of queues failed")
            least_s = min(WATCHED_S, self._interval_s) if self._watching else self._interval_s
            pause_s = max(least_s, PAUSE_A_QUEUE_S * len(self.newest.queues))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), pause_s)

    async def _round(self) -> None:
        keys = sorted(await self._backend.keys())
        queues: dict[str, QueueStats] = {}
        servers: dict[str, dict[str, QueueStats]] = {}
        coverage: Coverage | None = None
        for start in range(0, len(keys), ASKED_AT_ONCE):
            await self._turns.next()
            merged = await self._backend.queue_stats(*keys[start : start + ASKED_AT_ONCE])
            queues |= merged.queues
            for server, found in merged.servers.items():
                servers.setdefault(server, {}).update(found)
            coverage = least(coverage, merged.coverage)
        aged, aged_servers = await self._ages.update(queues, servers)
        new = Round(self.newest.number + 1, time.time(), aged, aged_servers, coverage)
        for listener in self._listeners:
            await listener(new)
        self.newest = new
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
