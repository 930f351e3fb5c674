"""How long the job at the head of a queue has waited, by the time in the job, which is peeked.

Kestrel's own `age` is that of the last item that was read, so a queue without consumers looks fresh there. A queue
without waiting jobs has the age 0.

1. A head is peeked again only if its server's figures say that it may be another one. A queue without consumers
   is peeked once in RECHECK_S, in case it was deleted and created again, which figures do not always tell.
2. A round peeks at most ROUND_BYTES. Heads beyond that keep their age of before, and come first in the next round.
3. An item without a time (a raw item) counts from the round in which it was first seen at the head, or by Kestrel's age
   if that is more. It is the same item if it has the same bytes and the figures do not say that it may be another one.
4. A server that does not answer is asked no more in this round. Its queues keep their ages of before.
5. Of more than MAX_QUEUES queues with waiting jobs, those with the fewest have Kestrel's age.
6. Requests read the heads of the last finished round, or peek for themselves and change nothing here.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from gateway.delivery.job_times import waiting_since
from gateway.envelope.read import Job, unwrap
from gateway.errors import GatewayError
from gateway.fairness.turns import Turns
from gateway.queue_stats import MergedStats, QueueStats

ROUND_BYTES: Final = 16 << 20
"""By the mean size of the queue's items. On loopback this takes a tenth of a second."""
MAX_QUEUES: Final = 5000
"""As many as one page shows, and more than have metrics."""
RECHECK_S: Final = 60.0
RECHECKED: Final = 100
"""Heads that one round peeks again by rule 1 although nothing has changed: about 10 ms."""
PEEK_S: Final = 1.0
"""A request waits this long for a head: as long as for the figures of a second server (gateway.kestrel.broadcast)."""

ByServer = Mapping[str, Mapping[str, QueueStats]]
"""By server, the figures of its queues by key."""


class PeekedServer(Protocol):
    """One server: see gateway.kestrel.member.Member."""

    @property
    def name(self) -> str: ...
    async def peek(self, key: str) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class _Head:
    """An item at the head. mark: changes whenever another item may be there. since_s: Unix time. checksum: of its
    bytes. peeked_s: monotonic."""

    mark: tuple[int, ...]
    since_s: float
    checksum: int
    peeked_s: float


_Heads = Mapping[str, Mapping[str, _Head]]
"""By key, then by server."""


class HeadAges:
    """members: the servers at the moment. counts: whether a key is that of a queue that is shown."""

    def __init__(
        self, members: Callable[[], Sequence[PeekedServer]], counts: Callable[[str], bool], turns: Turns
    ) -> None:
        self._members = members
        self._counts = counts
        self._turns = turns
        self._heads: dict[str, dict[str, _Head]] = {}
        self._finished: _Heads = {}  # of the last round; nothing changes it

    async def update(
        self, queues: Mapping[str, QueueStats], servers: ByServer
    ) -> tuple[dict[str, QueueStats], ByServer]:
        """The same figures with the ages of the waiting jobs: of each queue, and of each queue on each server.

        Looks at heads that may have changed, and forgets those of queues without waiting jobs.
        """
        waiting = [(stats.items, key) async for key, stats in self._turns.slices(queues.items()) if stats.items]
        shown = [key for _, key in waiting if self._counts(key)]
        if len(shown) > MAX_QUEUES:
            shown = [key for _, key in heapq.nlargest(MAX_QUEUES, waiting) if self._counts(key)]
        await self._look(shown, servers)
        self._finished = self._heads
        return await self._aged(queues, servers, self._finished)

    async def known(self, figures: MergedStats, tenant: str = "", at_s: float | None = None) -> MergedStats:
        """The same figures with the ages by the heads of the last round. Kestrel's age where it found no head.

        at_s: the Unix time for which the ages are; now if it is None.
        """
        queues, servers = await self._aged(figures.queues, figures.servers, self._finished, tenant, at_s)
        return replace(figures, queues=queues, servers=servers)

    async def peeked(
        self, key: str, figures: MergedStats, tenant: str, since: Callable[[Job], float | None] = waiting_since
    ) -> MergedStats:
        """The same figures, for one queue with the ages by its heads of now: peeks on each server where its jobs wait.

        since: the Unix time from which a job waits; None if it does not say. If a server does not answer within PEEK_S,
        its head of the last round counts, or Kestrel's age.
        """
        members = {member.name: member for member in self._members()}
        wanted = [
            (members[server], stats)
            for server, queues in figures.servers.items()
            if (stats := queues.get(key)) is not None and stats.items and server in members
        ]
        found = await asyncio.gather(*(self._head_now(member, key, stats, tenant, since) for member, stats in wanted))
        heads = {member.name: head for (member, _), head in zip(wanted, found, strict=True) if head is not None}
        queues, servers = await self._aged(figures.queues, figures.servers, {key: heads}, tenant)
        return replace(figures, queues=queues, servers=servers)

    async def _head_now(
        self, member: PeekedServer, key: str, stats: QueueStats, tenant: str, since: Callable[[Job], float | None]
    ) -> _Head | None:
        known = self._finished.get(key, {}).get(member.name)
        try:
            async with asyncio.timeout(PEEK_S):
                item = await member.peek(key)
        except (GatewayError, TimeoutError):
            return known
        if item is None:
            return None
        await self._turns.for_item(item, tenant)
        return _head(item, since(unwrap(item)), stats, known)

    async def _aged(
        self,
        queues: Mapping[str, QueueStats],
        servers: ByServer,
        heads: _Heads,
        tenant: str = "",
        at_s: float | None = None,
    ) -> tuple[dict[str, QueueStats], ByServer]:
        """With the ages by these heads. A queue has the greatest age that it has on any server."""
        now_s = time.time() if at_s is None else at_s
        aged_servers: dict[str, dict[str, QueueStats]] = {}
        oldest: dict[str, int] = {}
        for server, of in servers.items():
            aged = aged_servers[server] = {}
            async for key, stats in self._turns.slices(of.items(), tenant):
                head = heads.get(key, {}).get(server)
                aged[key] = _with_age(stats, stats.age_ms if head is None else _age_ms(now_s, head))
                oldest[key] = max(oldest.get(key, 0), aged[key].age_ms)
        each = self._turns.slices(queues.items(), tenant)
        return {key: _with_age(stats, oldest.get(key, 0)) async for key, stats in each}, aged_servers

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
        unchecked: list[tuple[str, str, QueueStats]] = []
        check_before_s = time.monotonic() - RECHECK_S
        async for server, key, stats in self._turns.slices(wanted):
            if (head := known.get(key, {}).get(server)) is not None:
                self._heads.setdefault(key, {})[server] = head
            if head is None or head.mark != _mark(stats):
                changed.append((server, key, stats))
            elif head.peeked_s < check_before_s:
                unchecked.append((server, key, stats))
        for each in (changed, unchecked):
            each.sort(key=lambda each: self._peeked_s(each[0], each[1]))
        left = ROUND_BYTES
        async for server, key, stats in self._turns.slices([*changed, *unchecked[:RECHECKED]]):
            if (member := members.get(server)) is None:
                continue
            left -= stats.bytes // stats.items
            if left < 0:
                break
            try:
                await self._peek(member, key, stats)
            except GatewayError:
                del members[server]

    def _peeked_s(self, server: str, key: str) -> float:
        head = self._heads.get(key, {}).get(server)
        return head.peeked_s if head is not None else -math.inf

    async def _peek(self, member: PeekedServer, key: str, stats: QueueStats) -> None:
        item = await member.peek(key)
        if item is None:
            self._heads.get(key, {}).pop(member.name, None)
            return
        await self._turns.for_item(item, "")
        heads = self._heads.setdefault(key, {})
        heads[member.name] = _head(item, waiting_since(unwrap(item)), stats, heads.get(member.name))


def _head(item: bytes, since_s: float | None, stats: QueueStats, known: _Head | None) -> _Head:
    """The head of a queue with these figures. since_s: None if the item has no time (rule 3). known: the last head."""
    now_s = time.time()
    mark, checksum = _mark(stats), zlib.crc32(item)
    if since_s is None:
        same = known is not None and (known.mark, known.checksum) == (mark, checksum)
        since_s = known.since_s if known is not None and same else now_s - stats.age_ms / 1000
    return _Head(mark, min(since_s, now_s), checksum, time.monotonic())


def _with_age(stats: QueueStats, age_ms: int) -> QueueStats:
    if not stats.items:
        age_ms = 0
    return stats if stats.age_ms == age_ms else replace(stats, age_ms=age_ms)


def _age_ms(now_s: float, head: _Head) -> int:
    """In whole milliseconds as the two times are, so that two ages at other times are in the same order."""
    return max(0, round(now_s * 1000) - round(head.since_s * 1000))


def _mark(stats: QueueStats) -> tuple[int, ...]:
    """Changes when items leave the head or come back to it: those taken, set aside, expired and discarded."""
    return (stats.total_items - stats.items, stats.open_reads, stats.expired_items, stats.discarded)
