"""Waiting for what other processes and threads do, where no signal tells of it.

A question to a gateway takes a millisecond of CPU. So the pauses between two questions grow: each is a tenth of the
time waited so far. No wait is longer by more than that, and one of seconds costs little.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

LIMIT_S: Final = 60.0
"""The limit of whatever a test waits for; on an idle machine it comes within a few seconds."""
SHORTEST_PAUSE_S: Final = 0.005
LONGEST_PAUSE_S: Final = 0.1


def until(
    condition: Callable[[], object],
    otherwise: Callable[[], str] = lambda: "it did not happen in time",
    *,
    within_s: float = LIMIT_S,
) -> float:
    """Returns when the condition holds: after how many seconds. Fails with `otherwise` when it does not in time."""
    began_s = time.monotonic()
    while not condition():
        waited_s = time.monotonic() - began_s
        assert waited_s < within_s, otherwise()
        time.sleep(min(max(waited_s / 10, SHORTEST_PAUSE_S), LONGEST_PAUSE_S))
    return time.monotonic() - began_s
