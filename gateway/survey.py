"""What Kestrel servers report of queues, as values: statistics, head items, and how many servers answered. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar


@dataclass(frozen=True, slots=True)
class QueueStats:
    """One queue as its server counts it; figures that a server does not report are 0. children: their number.

    age_ms: of the oldest item; Kestrel reports it only after the queue was read from for the first time.
    """

    items: int = 0
    bytes: int = 0
    age_ms: int = 0
    waiters: int = 0
    open_reads: int = 0
    total_items: int = 0
    expired_items: int = 0
    discarded: int = 0
    children: int = 0

    def __add__(self, other: QueueStats) -> QueueStats:
        """The same queue on two servers together, with the greater age."""
        total = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in dataclasses.fields(self)}
        return QueueStats(**(total | {"age_ms": max(self.age_ms, other.age_ms)}))


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many of the servers took part. The content of the others is unknown."""

    asked: int
    total: int

    @property
    def partial(self) -> bool:
        """Whether some server did not take part."""
        return self.asked < self.total

    def __str__(self) -> str:
        return f"{self.asked}/{self.total}"


T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Covered(Generic[T_co]):
    """A result, and how many servers it comes from; None means all of them.

    The result may be an error that says that nothing was found. With a partial coverage that is not certain.
    """

    result: T_co
    coverage: Coverage | None


def least(*coverages: Coverage | None) -> Coverage | None:
    """The coverage of the step with the fewest servers; None if all servers took part in each step."""
    known = [each for each in coverages if each is not None and each.partial]
    return min(known, key=lambda each: each.asked - each.total, default=None)


@dataclass(frozen=True, slots=True)
class Survey:
    """Queues by key: the sum over the servers, and the figures by server."""

    queues: Mapping[str, QueueStats]
    servers: Mapping[str, Mapping[str, QueueStats]]
    coverage: Coverage


@dataclass(frozen=True, slots=True)
class Peeked:
    """A head item; None if the servers that were asked have none."""

    data: bytes | None
    coverage: Coverage
