"""Patterns of names: `*` stands for any characters, `?` for one, everything else for itself. Linear in the name."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

PATTERN: Final = re.compile(r"[A-Za-z0-9_*?-]{1,64}")
"""What a pattern of names may be written with."""


def is_glob(text: str) -> bool:
    """Whether `text` stands for more than itself."""
    return "*" in text or "?" in text


def matches(pattern: str, name: str) -> bool:
    """Whether the pattern, which PATTERN allows, stands for the whole name."""
    return _compiled(pattern).fullmatch(name) is not None


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    """Each part between two stars is taken where it comes first, for good: an atomic group is never tried again.

    The last part is compared at the end of the name alone. No choice is left that could be undone.
    """
    first, *parts = [_part(each) for each in pattern.split("*")]
    if not parts:
        return re.compile(first, re.DOTALL)
    last = parts.pop()
    between = "".join(f"(?>.*?{each})" for each in parts if each)
    length = len(pattern.rpartition("*")[2])
    return re.compile(f"{first}{between}(?>.{{{length},}})(?<={last})", re.DOTALL)


def _part(text: str) -> str:
    return "".join("." if char == "?" else re.escape(char) for char in text)
