"""When a delayed job is due: from the `delay` or `at` of a request, or of one of its jobs. Pure."""

from __future__ import annotations

import math
import re
from typing import Final

from gateway.envelope.times import instant

LONGEST_DELAY_S: Final = 30 * 86_400.0
"""30 days, as openapi.yaml says."""
AN_INSTANT: Final = "an RFC 3339 timestamp, such as 2026-01-31T12:00:00Z"
"""For messages."""
_LOST_PLUS: Final = re.compile(r":[0-9.]+ [0-9]{2}:[0-9]{2}$")
"""A `+` before an offset that a query has turned into a space."""


def milliseconds(wall_s: float) -> int:
    """The instant in whole milliseconds, rounded up: a job is never early."""
    return math.ceil(round(wall_s * 1000, 3))


def due_ms(delay_s: float | None, at: str | None, now_s: float) -> int | None:
    """When the job is due, Unix time in milliseconds; None: now, without a delay or with an instant in the past.

    at: RFC 3339. Raises ValueError with what is wrong.
    """
    if delay_s is not None and at is not None:
        raise ValueError("delay and at are both given; send only one of them")
    if at is not None:
        try:
            due_s = instant(at)
        except (ValueError, OverflowError) as exc:
            hint = "; in a query, write a + as %2B" if _LOST_PLUS.search(at) else ""
            raise ValueError(f"at: {at[:40]!r} is not {AN_INSTANT}{hint}") from exc
        _check(due_s, now_s, f"at: {at}")
    else:
        due_s = now_s + (delay_s or 0.0)
    return milliseconds(due_s) if due_s > now_s else None


def event_due_ms(not_before: str, now_s: float) -> int:
    """When an event with this attribute `notbefore`, an RFC 3339 timestamp, is due; 0: now.

    Raises ValueError with what is wrong.
    """
    due_s = instant(not_before)
    _check(due_s, now_s, f"notbefore: {not_before}")
    return milliseconds(due_s) if due_s > now_s else 0


def _check(due_s: float, now_s: float, given: str) -> None:
    if due_s > now_s + LONGEST_DELAY_S:
        raise ValueError(f"{given} is more than the maximum of {LONGEST_DELAY_S / 86_400:.0f} days ahead")
