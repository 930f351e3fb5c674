"""Patterns of names: `*` stands for any characters, `?` for one, everything else for itself. Linear, never a regex."""

from __future__ import annotations

import re
from typing import Final

PATTERN: Final = re.compile(r"[A-Za-z0-9_*?-]{1,64}")
"""What a pattern of names may be written with."""


def is_glob(text: str) -> bool:
    """Whether `text` stands for more than itself."""
    return "*" in text or "?" in text


def matches(pattern: str, name: str) -> bool:
    """Whether the pattern stands for the whole name; at most len(pattern) * len(name) steps."""
    at = mark = 0
    star = -1
    here = 0
    while here < len(name):
        if at < len(pattern) and pattern[at] == "*":
            star, mark = at, here
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", name[here]):
            at += 1
            here += 1
        elif star >= 0:
            mark += 1
            at, here = star + 1, mark
        else:
            return False
    return all(each == "*" for each in pattern[at:])
