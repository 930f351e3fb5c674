"""How many leases have ended recently because the server reported that it has deleted their queue."""

from __future__ import annotations

import time
from typing import Final

RECENT_S: Final = 10.0
"""A request that deletes a queue counts leases that ended before it ends them itself, at most this long before."""
MOST_KEYS: Final = 1000


class RecentCounts:
    """Counts by queue, of the last RECENT_S; of MOST_KEYS queues."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[float, int]] = {}  # when the first was counted, and how many

    def add(self, key: str) -> None:
        """One more."""
        now_s = time.monotonic()
        began_s, count = self._counts.pop(key, (now_s, 0))
        if now_s - began_s > RECENT_S:
            began_s, count = now_s, 0
        self._counts[key] = began_s, count + 1
        if len(self._counts) > MOST_KEYS:
            del self._counts[next(iter(self._counts))]

    def take(self, key: str) -> int:
        """The count of the queue, which begins again."""
        began_s, count = self._counts.pop(key, (0.0, 0))
        return count if time.monotonic() - began_s <= RECENT_S else 0
