"""Counts in sentences: `1 job`, `2 jobs`."""

from __future__ import annotations


def counted(count: float, one: str, many: str = "", *, form: str = "") -> str:
    """The count and the words behind it.

    many: the words for every other count than 1, by default `one` with an `s`. form: of the number, as for format().
    """
    return f"{count:{form}} {one if count == 1 else many or f'{one}s'}"
