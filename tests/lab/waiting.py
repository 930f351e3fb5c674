"""Waiting for what other processes and threads do, where no signal tells of it.

A question to a gateway takes a millisecond of CPU. So the pauses between two questions grow: each is a tenth of the
time waited so far. No wait is longer by more than that, and one of seconds costs little.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Final, ParamSpec, Self

P = ParamSpec("P")

LIMIT_S: Final = 60.0
"""The limit of whatever a test waits for; on an idle machine it comes within a few seconds."""
SHORTEST_PAUSE_S: Final = 0.005
LONGEST_PAUSE_S: Final = 0.1
TICK_S: Final = 0.005
"""The pause between two looks at the clock: what is shorter is no stall."""
NOT_REPEATED: Final = (KeyboardInterrupt, SystemExit)
ATTEMPTS: Final = 10
"""A machine that stalls each time is too busy for a test of times."""


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


class Stalls:
    """Measures how long this process did not run, in the block: the machine was stopped, or busy with others.

    longest_s: the longest such time.
    """

    longest_s = 0.0

    def __enter__(self) -> Self:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._measure, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _measure(self) -> None:
        last_s = time.monotonic()
        while not self._over.wait(TICK_S):
            now_s = time.monotonic()
            self.longest_s = max(self.longest_s, now_s - last_s - TICK_S)
            last_s = now_s


def undisturbed(most_s: float) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Marks a test of times that a stall of the machine can make fail, and never pass.

    If it fails, and this process did not run for `most_s` meanwhile, it is repeated. Its fixtures are not.
    """

    def marked(test: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(test)
        def repeated(*arguments: P.args, **named: P.kwargs) -> None:
            for attempt in range(1, ATTEMPTS + 1):
                with Stalls() as stalls:
                    try:
                        test(*arguments, **named)
                    except BaseException as failure:  # DID NOT RAISE of pytest is no Exception
                        if stalls.longest_s < most_s or attempt == ATTEMPTS or isinstance(failure, NOT_REPEATED):
                            raise
                    else:
                        return

        return repeated

    return marked
