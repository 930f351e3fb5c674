"""How many answers of Kestrel one turn of the event loop reads. Thousands of waits may end at the same instant.

`gateway.fairness.paced_calls` begins each call in a later turn, by time and by tenant. Here an answer is read at once
while the turn has room: a later turn would delay every command, and nobody knows yet whose answer it is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

AT_ONCE: Final = 64
"""Answers that one turn reads: at most 5 ms of work."""


class AnswerPace:
    """Calls that read an answer: AT_ONCE in a turn of the loop, in order. Used by one event loop."""

    __slots__ = ("_count", "_waiting")

    def __init__(self) -> None:
        self._count = 0  # in this turn
        self._waiting: deque[Callable[[], None]] = deque()

    def add(self, read: Callable[[], None]) -> None:
        """Calls `read` now, or in a later turn if this turn has read enough. Late calls must do no harm."""
        if not self._count:
            asyncio.get_running_loop().call_soon(self._next_turn)
        self._count += 1
        if self._count <= AT_ONCE and not self._waiting:
            read()
        else:
            self._waiting.append(read)

    def _next_turn(self) -> None:
        self._count = min(AT_ONCE, len(self._waiting))
        if self._count:
            asyncio.get_running_loop().call_soon(self._next_turn)
        for _ in range(self._count):
            self._waiting.popleft()()
