"""The clocks by which delayed jobs move: the wall clock says what is due, the monotonic clock when to look."""

from __future__ import annotations

import asyncio
import contextlib
import time


class Clock:
    """The clocks of this machine."""

    def wall_s(self) -> float:
        """Unix time."""
        return time.time()

    def monotonic_s(self) -> float:
        """Grows at the rate of time, whatever happens to the wall clock."""
        return time.monotonic()

    async def wait(self, event: asyncio.Event, limit_s: float) -> None:
        """Returns when the event is set, or `limit_s` seconds have passed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await event.wait()
