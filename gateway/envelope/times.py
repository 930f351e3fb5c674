"""Instants as text, and expiry as on Kestrel's wire. Pure; all times are wall times."""

from __future__ import annotations

import re
import time
from datetime import datetime
from functools import lru_cache

RELATIVE_LIMIT_S = 1_000_000
"""From this value on Kestrel reads an expiry as an absolute instant. Source: kestrel-wire.md, "Set"."""
LATEST_S = 2**31 - 1
"""The last instant that fits the wire's expiry field, a signed 32-bit number."""
YEAR_10000_S = 253_402_300_800
"""The first instant without an RFC 3339 timestamp in UTC, which has four digits for the year."""

_OWN_LENGTH = len("2026-01-01T00:00:00.000Z")
_RFC3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]((?:[01][0-9]|2[0-3]):[0-9]{2}:)([0-9]{2})(\.[0-9]{1,32})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def timestamp(wall_s: float) -> str:
    """RFC 3339 in UTC with milliseconds. wall_s: before YEAR_10000_S."""
    millis = int(wall_s * 1000)
    return f"{_second(millis // 1000)}.{millis % 1000:03d}Z"


@lru_cache(maxsize=256)
def instant(text: str) -> float:
    """The wall time in seconds of an RFC 3339 timestamp. A leap second counts as the next one, as in POSIX.

    Raises:
        ValueError: it is not such a timestamp, or the day or hour does not exist.
    """
    if len(text) == _OWN_LENGTH and text[19] == "." and text[20:23].isdecimal() and text[23] == "Z" and text.isascii():
        return _instant(text[:19] + "Z") + int(text[20:23]) / 1000  # as `timestamp` writes it; few differ in the second
    return _instant(text)


@lru_cache(maxsize=64)
def _instant(text: str) -> float:
    found = _RFC3339.fullmatch(text)
    if found is None:
        raise ValueError("not an RFC 3339 timestamp")
    day, minute, second, fraction, zone = found.groups(default="")
    leap_s = 1.0 if second == "60" else 0.0
    second = "59" if leap_s else second
    zone = "+00:00" if zone in "Zz" else zone
    found_at = datetime.fromisoformat(f"{day}T{minute}{second}{(fraction or '.0')[:7].ljust(7, '0')}{zone}")
    return found_at.timestamp() + leap_s


def wire_expiry(expires_s: float | None, now_s: float) -> int:
    """The wire expiry with which Kestrel drops an item at most a second after `expires_s`, never before. None: never.

    An instant that does not fit the field is left to the envelope (0: Kestrel keeps the item).
    """
    if expires_s is None:
        return 0
    left_s = -(-round((expires_s - now_s) * 1000) // 1000)
    if left_s < RELATIVE_LIMIT_S:
        return max(1, left_s)
    ends_s = -(-round(expires_s * 1000) // 1000)
    return ends_s if ends_s <= LATEST_S else 0


@lru_cache(maxsize=64)
def _second(epoch_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(epoch_s))
