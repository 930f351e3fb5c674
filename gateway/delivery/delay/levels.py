"""The levels of the holding queues: how long a job waits in each, and which level comes next. Pure.

1. Every job waits the same time in the holding queue of a level, so the job at its head is the first that may leave.
   Level k waits 2^k sixteenths of a second.
2. The next level is the longest wait that is not longer than what is left until the job is due: a delay takes at most
   one move per level. In level 0 a job waits until it is due, which is less than two of its waits.
3. No step is early: instants are whole milliseconds, rounded up.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from gateway.envelope.due import milliseconds

SHORTEST_S: Final = 1 / 16
LEVELS: Final = 26
"""The longest wait is 2^21 seconds, 24 days."""


class Hop(NamedTuple):
    """One stay in a holding queue. until_ms: when it ends, Unix time in milliseconds. level: also the number of the
    queue of a single delay, which follows the levels."""

    level: int
    until_ms: int


def wait_s(level: int) -> float:
    """How long jobs wait in the holding queue of a level; in level 0 up to twice as long (rule 2)."""
    return SHORTEST_S * 2.0**level


def purpose(level: int) -> str:
    """The purpose in the key of the holding queue (gateway.names.namespace.Namespace.internal_key)."""
    return f"delay-{level:02}"


def own_purpose(wait_ms: int) -> str:
    """As `purpose`, of the queue of a single delay."""
    return f"delay-of-{wait_ms}"


def next_hop(due_ms: int, now_s: float) -> Hop:
    """The next stay of a job that is due after `now_s`."""
    left_s = due_ms / 1000 - now_s
    if left_s < 2 * SHORTEST_S:
        return Hop(0, due_ms)
    level = min(LEVELS - 1, math.frexp(left_s / SHORTEST_S)[1] - 1)
    return Hop(level, min(due_ms, milliseconds(now_s + wait_s(level))))
