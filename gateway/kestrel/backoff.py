"""How long to pause before the next attempt. Pure but for its jitter."""

from __future__ import annotations

import random

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0


def pause_s(failures: int) -> float:
    """After that many failures in a row: twice as long each time, at most LONGEST_PAUSE_S, up to half of it less."""
    longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(max(failures, 1) - 1, 16))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  (spreads attempts, keeps no secret)
