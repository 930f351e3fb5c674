"""How long the oldest job of a queue has waited: since the time in the job at the head, which is peeked.

Kestrel's own `age` is that of the last item that was read, so a queue that nobody reads looks fresh there.

1. A head is peeked again only if its server's figures say that it may be another one. A queue that nobody reads is
   peeked once, however long that lasts.
2. A round peeks at most ROUND_BYTES. Heads beyond that keep their age of before, and come first in the next round.
3. An item without a time (a raw item) counts from the round in which it was first seen at the head, or by Kestrel's age
   if that is more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.delivery.job_times import enqueued
from gateway.envelope.read import unwrap
from gateway.errors import BackendUnavailable
from gateway.fairness.turns import Turns
from gateway.queue_stats import QueueStats

ROUND_BYTES: Final = 16 << 20
"""By the mean size of the queue's items. On loopback this takes a tenth of a second."""


class PeekedServer(Protocol):
    """One server: see gateway.kestrel.member.Member."""

    @property
    def name(self) -> str: ...
    async def peek(self, key: str) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class _Head:
    """An item at the head. mark: changes whenever another item may be there. since_s: Unix time."""

    mark: tuple[int, ...]
    since_s: float
    peeked: int


class HeadAges:
    """members: the servers at the moment."""

    def __init__(self, members: Callable[[], Sequence[PeekedServer]], turns: Turns) -> None:
        self._members = members
        self._turns = turns
        self._heads: dict[str, dict[str, _Head]] = {}  # by key, then by server
        self._rounds = 0
        self.peeks = 0

    async def update(self, keys: Iterable[str], servers: Mapping[str, Mapping[str, QueueStats]]) -> None:
        """Looks at the heads of these queues, and forgets others. servers: the figures by server."""
        self._rounds += 1
        members = {member.name: member for member in self._members()}
        wanted = (
            (server, key, stats)
            for key in keys
            for server, queues in servers.items()
            if (stats := queues.get(key)) is not None and stats.items
        )
        known, self._heads = self._heads, {}
        changed: list[tuple[str, str, QueueStats]] = []
        async for server, key, stats in self._turns.slices(wanted):
            if (head := known.get(key, {}).get(server)) is not None:
                self._heads.setdefault(key, {})[server] = head
            if not self._is_known(server, key, stats):
                changed.append((server, key, stats))
        changed.sort(key=lambda each: self._peeked(each[0], each[1]))
        left = ROUND_BYTES
        async for server, key, stats in self._turns.slices(changed):
            left -= stats.bytes // stats.items
            if left < 0:
                break
            if (member := members.get(server)) is not None:
                await self._peek(member, key, stats)

    def age_s(self, key: str, stats: QueueStats, now_s: float) -> float:
        """The greatest age of the queue's heads, in seconds; 0 if no job waits. now_s: Unix time."""
        if not stats.items:
            return 0.0
        heads = self._heads.get(key, {}).values()
        return max((now_s - head.since_s for head in heads), default=stats.age_ms / 1000)

    def _is_known(self, server: str, key: str, stats: QueueStats) -> bool:
        head = self._heads.get(key, {}).get(server)
        return head is not None and head.mark == _mark(stats)

    def _peeked(self, server: str, key: str) -> int:
        head = self._heads.get(key, {}).get(server)
        return head.peeked if head is not None else 0

    async def _peek(self, member: PeekedServer, key: str, stats: QueueStats) -> None:
        try:
            item = await member.peek(key)
        except BackendUnavailable:
            return
        self.peeks += 1
        if item is None:
            self._heads.get(key, {}).pop(member.name, None)
            return
        await self._turns.for_item(item, "")
        now_s = time.time()
        since_s = enqueued(unwrap(item))
        if since_s is None:
            since_s = now_s - stats.age_ms / 1000
        head = _Head(_mark(stats), min(since_s, now_s), self._rounds)
        self._heads.setdefault(key, {})[member.name] = head


def _mark(stats: QueueStats) -> tuple[int, ...]:
    """Changes when items leave the head or come back to it: those taken, set aside, expired and discarded."""
    return (stats.total_items - stats.items, stats.open_reads, stats.expired_items, stats.discarded)
