"""Text of others, such as a path or a client's bytes, in a line of a message or of a log."""

from __future__ import annotations

from typing import Final

_BYTES: Final = range(0xDC80, 0xDD00)
"""Bytes that are not UTF-8, as Python has them in the text of a path. Source: PEP 383."""


def one_line(text: str) -> str:
    r"""The text, in which what is not printable is escaped: a line break appears as `\n`. Bytes of a path remain."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or ord(each) in _BYTES else each.encode("unicode_escape").decode() for each in text
    )
