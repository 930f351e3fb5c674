"""The header Accept: which media types a client accepts, and with which weight. Pure.

Source: RFC 9110, section 12.5.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

MAX_RANGES: Final = 50
"""Limit for all Accept headers of a request together; further ranges are not read."""
_SHORT: Final = 512
"""Characters. Clients send the same few short values again and again."""


def ranges(accept: str) -> Mapping[str, float]:
    """The media ranges, in lower case, and their weights from 0 to 1. Invalid ranges are skipped."""
    return _remembered(accept) if len(accept) <= _SHORT else _read(accept)


def quality(found: Mapping[str, float], media_type: str) -> float:
    """The weight of the type: from the most specific range that includes it; 0 if none does."""
    for name in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
        if name in found:
            return found[name]
    return 0.0


def _read(accept: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for each in accept.split(",", MAX_RANGES)[:MAX_RANGES]:
        name, *parameters = [part.strip().lower() for part in each.split(";", MAX_RANGES)]
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = min(1.0, max(0.0, float(parameter[2:])))
                except ValueError:
                    weight = 0.0
        found[name] = max(weight, found.get(name, 0.0))
    return found


_remembered = lru_cache(maxsize=256)(_read)
