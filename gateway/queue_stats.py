"""The statistics of queues, as their servers report them, and merged. Pure values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.coverage import Coverage


@dataclass(frozen=True, slots=True)
class QueueStats:
    """One queue as its server counts it; figures that a server does not report are 0.

    age_ms: from Kestrel, that of the item that was read last; from gateway.delivery.figures.head_ages, that of the
    oldest waiting item. children: the keys of its fanout children. atomic: whether the server stores an item with all
    of its copies or not at all; told only of children and of queues that have some.
    """

    items: int = 0
    bytes: int = 0
    age_ms: int = 0
    waiters: int = 0
    open_reads: int = 0
    total_items: int = 0
    expired_items: int = 0
    discarded: int = 0
    children: frozenset[str] = frozenset()
    atomic: bool = False

    def __add__(self, other: QueueStats) -> QueueStats:
        """The same queue on two servers together, with the greater age."""
        total = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in COUNTED}
        total["age_ms"] = max(self.age_ms, other.age_ms)
        return QueueStats(**total, children=self.children | other.children, atomic=self.atomic and other.atomic)


COUNTED = tuple(f for f in dataclasses.fields(QueueStats) if f.name not in {"children", "atomic"})


@dataclass(frozen=True, slots=True)
class MergedStats:
    """Queues by key: the sum over the servers, and the figures by server."""

    queues: Mapping[str, QueueStats]
    servers: Mapping[str, Mapping[str, QueueStats]]
    coverage: Coverage
