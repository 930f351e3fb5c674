"""How often a test repeats what chance decides, and in how many forms it runs: as given in CI, else a third of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

FEWEST = 20


def examples(count: int, *, fewest: int = FEWEST) -> int:
    """`count` in CI (the environment has CI), else a third of it, but at least `fewest` and at most `count`."""
    return count if os.environ.get("CI") else min(count, max(fewest, count // 3))


def some(values: Sequence[T], *, fewest: int = 1) -> list[T]:
    """All values in CI, else a third of them, at least `fewest`: the first one, and others at equal distances."""
    count = len(values) if os.environ.get("CI") else min(len(values), max(fewest, len(values) // 3))
    return [values[number * len(values) // count] for number in range(count)]


def in_ci(*forms: T) -> tuple[T, ...]:
    """Further forms of a test in CI, and none on a developer's machine, where its other forms take the same paths."""
    return forms if os.environ.get("CI") else ()
