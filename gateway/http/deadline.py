"""The time limit of what a connection waits for. Knows nothing of what happens when it is over.

Thousands of connections that were opened together expire together, so each waits for its turn.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

from gateway.fairness.paced_calls import PacedCalls

_NOBODY: Final = ""
_EARLY_S: Final = 0.001  # uvloop's timers are in whole milliseconds


class Deadline:
    """Calls `expired` when the time set last is over. Has one timer, which moves only if it would fire too late."""

    __slots__ = ("_at", "_expired", "_loop", "_paced", "_timer", "_timer_at")

    def __init__(self, loop: asyncio.AbstractEventLoop, paced: PacedCalls, expired: Callable[[], None]) -> None:
        self._loop = loop
        self._paced = paced
        self._expired = expired
        self._at = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def set(self, seconds: float) -> None:
        """Expires in `seconds` from now, whatever was set before."""
        self._at = self._loop.time() + seconds
        if self._timer is None or self._at < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = self._at
            self._timer = self._loop.call_later(seconds, self._fire)

    def clear(self) -> None:
        """Does not expire before it is set again."""
        self._at = math.inf

    def close(self) -> None:
        """The connection has ended. `set` must not be called again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.clear()
        del self._expired  # it refers back to the connection

    def _fire(self) -> None:
        self._timer = None
        if self._at is math.inf:
            return
        left_s = self._at - self._loop.time()
        if left_s > _EARLY_S:
            self.set(left_s)
        else:
            self._paced.add(_NOBODY, self._expire)

    def _expire(self) -> None:
        if self._at - self._loop.time() <= _EARLY_S:  # it may have been set again, or cleared, in the meantime
            self._expired()
