"""How long a job waits before its next attempt: a policy's `retry_delay`. Pure.

retry_delay = [1, 10, 60]                                       # after the first, the second, every further attempt
retry_delay = { min = 1, max = 3600, factor = 2, jitter = 0.1 } # 1, 2, 4, ... seconds, each 10 % more or less
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from gateway.envelope.due import LONGEST_DELAY_S

SHORTEST_S: Final = 0.001
MAX_STEPS: Final = 100
MAX_FACTOR: Final = 100.0
"""Nobody needs shorter delays, longer lists or steeper growth."""
ALLOWED: Final = (
    f"a list of 1 to {MAX_STEPS} numbers of seconds from 0 to {LONGEST_DELAY_S:.0f}, or a table with min, max, factor "
    f"(1 to {MAX_FACTOR:.0f}, by default 2) and jitter (0 to 1, by default 0)"
)


@dataclass(frozen=True, slots=True)
class RetryDelay:
    """steps_s: the delay after each attempt; the last one repeats. Without steps: min_s, growing by `factor` with each
    attempt to at most max_s, changed by up to the fraction `jitter` in both directions, but never above 30 days.
    """

    steps_s: tuple[float, ...] = ()
    min_s: float = SHORTEST_S
    max_s: float = SHORTEST_S
    factor: float = 2.0
    jitter: float = 0.0

    @property
    def exact(self) -> bool:
        """Whether all jobs wait the same time after the same attempt."""
        return bool(self.steps_s) or not self.jitter

    def after(self, attempt: int, chance: float) -> float:
        """The seconds to wait after the attempt with this number, 1 for the first. chance: from 0 to 1, for jitter."""
        if self.steps_s:
            return self.steps_s[min(attempt, len(self.steps_s)) - 1]
        grown_s = self.max_s
        if (attempt - 1) * math.log(self.factor) < math.log(self.max_s / self.min_s):
            grown_s = self.min_s * self.factor ** (attempt - 1)
        return min(LONGEST_DELAY_S, grown_s * (1 + self.jitter * (2 * chance - 1)))


def retry_delay(value: Any) -> RetryDelay:
    """The value of `retry_delay` in a policy. Raises ValueError."""
    if isinstance(value, list):
        if not 1 <= len(value) <= MAX_STEPS:
            raise ValueError
        return RetryDelay(tuple(_number(each, 0, LONGEST_DELAY_S) for each in value))
    if not isinstance(value, dict) or not {"min", "max"} <= value.keys() <= {"min", "max", "factor", "jitter"}:
        raise ValueError
    min_s, max_s = (_number(value[each], SHORTEST_S, LONGEST_DELAY_S) for each in ("min", "max"))
    factor, jitter = _number(value.get("factor", 2.0), 1, MAX_FACTOR), _number(value.get("jitter", 0.0), 0, 1)
    if min_s > max_s:
        raise ValueError
    return RetryDelay((), min_s, max_s, factor, jitter)


def _number(value: Any, low: float, high: float) -> float:
    if type(value) not in (int, float) or not low <= value <= high:
        raise ValueError
    return float(value)
