"""Which queues are full: Kestrel tells it only to whoever puts a job, so this worker remembers what its puts found."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from gateway.errors import GatewayError, QueueFull

REMEMBERED_S: Final = 60.0
"""A producer that is refused tries again much sooner, so a queue that stays full stays marked."""
MAX_QUEUES: Final = 10_000


class FullQueues:
    """Queues that refused a job within REMEMBERED_S, and have stored none since."""

    def __init__(self) -> None:
        self._refused_s: dict[str, float] = {}

    def note(self, key: str, outcomes: Sequence[GatewayError | None]) -> None:
        """Remembers how puts on the queue ended; the last one counts."""
        if not outcomes:
            return
        if isinstance(outcomes[-1], QueueFull):
            self._refused_s[key] = time.monotonic()
            if len(self._refused_s) > MAX_QUEUES:
                del self._refused_s[next(iter(self._refused_s))]
        elif outcomes[-1] is None and self._refused_s:
            self._refused_s.pop(key, None)

    def __contains__(self, key: str) -> bool:
        refused_s = self._refused_s.get(key)
        return refused_s is not None and time.monotonic() - refused_s < REMEMBERED_S
