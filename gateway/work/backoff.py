"""Growing pauses while the gateway or the endpoint is unreachable. All slots share one back-off for each of the two."""

from __future__ import annotations

import logging
import time
from typing import Final

from gateway.client.failures import pause_s
from gateway.work.control import WorkControl

logger: Final = logging.getLogger(__name__)


class Backoff:
    """Slots that fail during one pause count as one failure, so that the pauses do not depend on their number.

    trouble: why the last try failed; empty if it did not.
    """

    def __init__(self, control: WorkControl) -> None:
        self.trouble = ""
        self._control = control
        self._failures = 0
        self._until_s = 0.0

    def failed(self, why: str, at_least_s: float = 0) -> None:
        """No slot goes on for a while: at least that long, and longer after each failure in a row."""
        now_s = time.monotonic()
        if now_s < self._until_s:
            return
        self.trouble = why
        self._failures += 1
        pause = at_least_s + pause_s(self._failures)
        self._until_s = now_s + pause
        logger.warning("%s; next try in %.1f s", why, pause)

    def succeeded(self) -> None:
        """What was unreachable answers again."""
        self.trouble = ""
        self._failures = 0

    async def wait(self) -> None:
        """Returns when the pause is over, or when the worker finishes."""
        while (left_s := self._until_s - time.monotonic()) > 0 and not self._control.finishing.is_set():
            await self._control.sleep(left_s)
