"""How long the oldest job of a queue has waited: since the time in the job at the head, which is peeked.

Kestrel's own `age` is that of the last item that was read, so a queue that nobody reads looks fresh there.

1. A head is peeked again only if its server's figures say that it may be another one. A queue that nobody reads is
   peeked once, however long that lasts.
2. A round peeks at most ROUND_BYTES. Heads beyond that keep their age of before, and come first in the next round.
3. An item without a time (a raw item) counts from the round in which it was first seen at the head, or by Kestrel's age
   if that is more.
4. A server that does not answer is asked no more in this round. Its queues keep their ages of before.
5. Of more than MAX_QUEUES queues with waiting jobs, those with the fewest have Kestrel's age.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from gateway.delivery.job_times import enqueued
from gateway.envelope.read import unwrap
from gateway.errors import GatewayError
from gateway.fairness.turns import Turns
from gateway.queue_stats import QueueStats

ROUND_BYTES: Final = 16 << 20
"""By the mean size of the queue's items. On loopback this takes a tenth of a second."""
MAX_QUEUES: Final = 5000
"""As many as one page shows, and more than have metrics."""

ByServer = Mapping[str, Mapping[str, QueueStats]]
"""By server, the figures of its queues by key."""


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
    """members: the servers at the moment. counts: whether a key is that of a queue that is shown."""

    def __init__(
        self, members: Callable[[], Sequence[PeekedServer]], counts: Callable[[str], bool], turns: Turns
    ) -> None:
        self._members = members
        self._counts = counts
        self._turns = turns
        self._heads: dict[str, dict[str, _Head]] = {}  # by key, then by server
        self._rounds = 0
        self.peeks = 0

    async def update(
        self, queues: Mapping[str, QueueStats], servers: ByServer
    ) -> tuple[dict[str, QueueStats], ByServer]:
        """The same figures with the ages of the waiting jobs: of each queue, and of each queue on each server.

        Looks at heads that may have changed, and forgets those of queues without waiting jobs.
        """
        self._rounds += 1
        waiting = [(stats.items, key) async for key, stats in self._turns.slices(queues.items()) if stats.items]
        shown = [key for _, key in waiting if self._counts(key)]
        if len(shown) > MAX_QUEUES:
            shown = [key for _, key in heapq.nlargest(MAX_QUEUES, waiting) if self._counts(key)]
        await self._look(shown, servers)
        now_s = time.time()
        aged = dict(queues)
        aged_servers = {server: dict(of) for server, of in servers.items()}
        async for key in self._turns.slices(shown):
            heads = self._heads.get(key, {})
            for server, head in heads.items():
                if (stats := aged_servers[server].get(key)) is not None:
                    aged_servers[server][key] = replace(stats, age_ms=_age_ms(now_s, head))
            if heads:
                aged[key] = replace(queues[key], age_ms=max(_age_ms(now_s, head) for head in heads.values()))
        return aged, aged_servers

    async def _look(self, keys: Sequence[str], servers: ByServer) -> None:
        """Keeps the heads of these queues, and peeks those that may have changed."""
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
            if (member := members.get(server)) is None:
                continue
            left -= stats.bytes // stats.items
            if left < 0:
                break
            try:
                await self._peek(member, key, stats)
            except GatewayError:
                del members[server]

    def _is_known(self, server: str, key: str, stats: QueueStats) -> bool:
        head = self._heads.get(key, {}).get(server)
        return head is not None and head.mark == _mark(stats)

    def _peeked(self, server: str, key: str) -> int:
        head = self._heads.get(key, {}).get(server)
        return head.peeked if head is not None else 0

    async def _peek(self, member: PeekedServer, key: str, stats: QueueStats) -> None:
        item = await member.peek(key)
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


def _age_ms(now_s: float, head: _Head) -> int:
    return max(0, round((now_s - head.since_s) * 1000))


def _mark(stats: QueueStats) -> tuple[int, ...]:
    """Changes when items leave the head or come back to it: those taken, set aside, expired and discarded."""
    return (stats.total_items - stats.items, stats.open_reads, stats.expired_items, stats.discarded)
