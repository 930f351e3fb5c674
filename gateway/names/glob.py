"""Patterns of names: `*` matches any characters, `?` one character, others match themselves. Linear time in the
name.

A pattern of queues covers a fanout child only if it has a `+`, too: `img-*` covers no child, `img-*+*` every child.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from gateway.names.namespace import FANOUT

PATTERN: Final = re.compile(r"[A-Za-z0-9_*?-]{1,64}")
"""The characters of a pattern."""
QUEUES: Final = re.compile(rf"{PATTERN.pattern}(?:\+{PATTERN.pattern})?")
"""A pattern of queues, or of fanout children."""


def is_glob(text: str) -> bool:
    """Whether `text` has wildcards."""
    return "*" in text or "?" in text


def matches(pattern: str, name: str) -> bool:
    """Whether the pattern, which must match PATTERN, matches the whole name."""
    return _compiled(pattern).fullmatch(name) is not None


def covers(pattern: str, queue: str) -> bool:
    """Whether the pattern, which must match QUEUES, covers the queue or child of that name."""
    parent, plus, child = pattern.partition(FANOUT)
    name, of_child, child_name = queue.partition(FANOUT)
    return plus == of_child and matches(parent, name) and matches(child, child_name)


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    """Each part between two stars matches at its first occurrence, for good: an atomic group is never tried again.

    The last part is compared only at the end of the name. So there is no backtracking.
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
