"""How many examples Hypothesis tries: all in CI, and a third on a developer's machine."""

from __future__ import annotations

import os

FEWEST = 20


def examples(count: int) -> int:
    """`count` in CI (the environment has CI), else a third of it."""
    return count if os.environ.get("CI") else max(FEWEST, count // 3)
