"""Serves the waiters of many queues without holding the loop for long."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from typing import Final

from gateway.broker.queues.reads import Settler

SERVED_AT_ONCE: Final = 50
"""Waiters that are served without looking at the time."""
SERVING_S: Final = 0.005
"""How long one turn serves waiters: a quarter of the 20 ms that a turn of the loop may take."""


def serve_soon(loop: asyncio.AbstractEventLoop, queues: Iterable[Settler]) -> None:
    """Serves the waiters of the queues now, and if that takes long the rest in later turns of the loop."""
    left = deque(queues)
    until_s = time.monotonic() + SERVING_S
    while left:
        if left[0].serve(SERVED_AT_ONCE):
            left.popleft()
        if left and time.monotonic() > until_s:
            loop.call_soon(serve_soon, loop, left)
            return
