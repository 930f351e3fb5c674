"""How often a test repeats what chance decides: as given in CI, and a third of it on a developer's machine."""

from __future__ import annotations

import os

FEWEST = 20


def examples(count: int, *, fewest: int = FEWEST) -> int:
    """`count` in CI (the environment has CI), else a third of it, but at least `fewest` and at most `count`."""
    return count if os.environ.get("CI") else min(count, max(fewest, count // 3))
