"""The figures of the largest queues, and the sums of the others: what the metrics show of queues.

1. It works in slices, with each round of the gatherer. A scrape only reads.
2. The size of a queue is the number of its jobs, dead letters included. The largest `limit` queues have a row each.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.delivery.dead_letters.store import dead_key
from gateway.delivery.figures.gatherer import Round
from gateway.delivery.queues.catalog import Catalog
from gateway.fairness.turns import Turns
from gateway.names.namespace import Name
from gateway.queue_stats import QueueStats

FIGURES: Final = ("items", "bytes", "age_seconds", "open_reads", "waiters", "dead_letters", "backlog")
"""The figures of a row, in order."""
AGE: Final = FIGURES.index("age_seconds")

QueueRow = tuple[str, str, tuple[float, ...]]
"""A queue: its tenant, its name, and its FIGURES."""


@dataclass(frozen=True, slots=True)
class QueueTable:
    """at_s: Unix time of the figures. rows: the largest queues. others: how many further queues there are.
    sums: their FIGURES, of which the age is 0. delayed: the delayed jobs of all queues. asked, servers: how many
    servers answered, and how many there are.
    """

    at_s: float
    rows: tuple[QueueRow, ...]
    others: int
    sums: tuple[float, ...]
    delayed: int
    asked: int
    servers: int

    @classmethod
    def of(cls, content: Any) -> QueueTable:
        """The table that another worker sent as JSON, or the table itself."""
        if isinstance(content, cls):
            return content
        rows = tuple((tenant, queue, tuple(figures)) for tenant, queue, figures in content["rows"])
        return cls(**content | {"rows": rows, "sums": tuple(content["sums"])})


class LargestQueues:
    """table: of the last round; None before the first. holding_keys: of the queues of delayed jobs."""

    def __init__(
        self,
        catalog: Catalog,
        turns: Turns,
        *,
        holding_keys: Sequence[str],
        servers: Callable[[], int],
        limit: int,
    ) -> None:
        self.table: QueueTable | None = None
        self._catalog = catalog
        self._turns = turns
        self._holding_keys = holding_keys
        self._servers = servers
        self._limit = limit

    async def add(self, found: Round) -> None:
        """Makes the table of a round of the gatherer. Cancelled: the table of before stays."""
        largest: list[tuple[float, str, Name, tuple[float, ...]]] = []
        sums = [0.0] * len(FIGURES)
        others = 0
        async for each in self._turns.slices(self._figures(found)):
            if each is None:
                continue
            key, name, figures = each
            entry = (figures[-1] + figures[-2], key, name, figures)
            if len(largest) < self._limit:
                heapq.heappush(largest, entry)
                continue
            others += 1
            for at, figure in enumerate(heapq.heappushpop(largest, entry)[3] if self._limit else figures):
                sums[at] += 0.0 if at == AGE else figure
        largest.sort(reverse=True, key=lambda each: each[:2])
        rows = [self._row(name, figures) async for _, _, name, figures in self._turns.slices(largest)]
        delayed = [found.queues[key] for key in self._holding_keys if key in found.queues]
        servers = self._servers()
        self.table = QueueTable(
            at_s=found.at_s,
            rows=tuple(rows),
            others=others,
            sums=tuple(sums),
            delayed=sum(each.items + each.open_reads for each in delayed),
            asked=found.coverage.asked if found.coverage is not None else servers,
            servers=servers,
        )

    def _figures(self, found: Round) -> Iterator[tuple[str, Name, tuple[float, ...]] | None]:
        """Every queue that a request can name: its key, its name, and its figures. None for others: each is a step."""
        for key, stats in found.queues.items():
            name = self._catalog.owner_of(key)
            if name is None:
                yield None
                continue
            dead = found.queues.get(dead_key(self._catalog, key) or "", _NONE).items
            backlog = stats.items + stats.open_reads
            age_s = stats.age_ms / 1000 if stats.items else 0.0
            yield key, name, (stats.items, stats.bytes, age_s, stats.open_reads, stats.waiters, dead, backlog)

    @staticmethod
    def _row(name: Name, figures: tuple[float, ...]) -> QueueRow:
        queue = name.queue if name.child is None else f"{name.queue}+{name.child}"
        return name.tenant, queue, figures


_NONE: Final = QueueStats()
