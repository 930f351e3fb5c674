"""How many of the Kestrel servers an answer comes from. Pure values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar


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


class Covered(NamedTuple, Generic[T_co]):
    """A result, and how many servers it comes from; None means all of them.

    The result may be an error that says that nothing was found. With a partial coverage that is not certain. A tuple,
    because every delivery makes two.
    """

    result: T_co
    coverage: Coverage | None


def least(*coverages: Coverage | None) -> Coverage | None:
    """The coverage of the step with the fewest servers; None if all servers took part in each step."""
    known = [each for each in coverages if each is not None and each.partial]
    return min(known, key=lambda each: each.asked - each.total, default=None)
