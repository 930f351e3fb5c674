"""The pause before the next attempt. Pure except for its jitter."""

from __future__ import annotations

import random

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
"""A server that restarts is found again at once; an unreachable one costs an attempt every one to two seconds."""


def pause_s(failures: int) -> float:
    """The pause after this many failures in a row: doubled up to LONGEST_PAUSE_S, then up to half less at random."""
    longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(max(failures, 1) - 1, 16))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  (spreads attempts; not a secret)
