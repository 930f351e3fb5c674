"""What Kestrel servers say of queues, as values: figures, head items, and how many servers answered. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QueueStats:
    """One queue as its server counts it; what a server does not tell is 0. children: how many of them it has.

    age_ms: of the oldest item; Kestrel tells it of a queue only once something was read of it.
    """

    items: int = 0
    bytes: int = 0
    age_ms: int = 0
    waiters: int = 0
    open_reads: int = 0
    total_items: int = 0
    expired_items: int = 0
    discarded: int = 0
    transactions: int = 0
    canceled_transactions: int = 0
    total_flushes: int = 0
    mem_items: int = 0
    mem_bytes: int = 0
    logsize: int = 0
    children: int = 0

    def __add__(self, other: QueueStats) -> QueueStats:
        """The same queue on two servers together; the older age counts."""
        total = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in dataclasses.fields(self)}
        return QueueStats(**(total | {"age_ms": max(self.age_ms, other.age_ms)}))


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many of the servers that should have been asked were. What no server of them holds is not known."""

    asked: int
    total: int

    @property
    def partial(self) -> bool:
        """Whether some server was not asked."""
        return self.asked < self.total

    def __str__(self) -> str:
        return f"{self.asked}/{self.total}"


@dataclass(frozen=True, slots=True)
class Survey:
    """Queues by key: added up over the servers, and by the server's name."""

    queues: Mapping[str, QueueStats]
    servers: Mapping[str, Mapping[str, QueueStats]]
    coverage: Coverage


@dataclass(frozen=True, slots=True)
class Peeked:
    """A head item, or None where the servers that were asked have none."""

    data: bytes | None
    coverage: Coverage
