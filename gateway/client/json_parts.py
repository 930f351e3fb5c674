"""Cuts JSON into its elements or members, each with its original bytes. Pure; numbers and nesting are never parsed."""

from __future__ import annotations

import json
import re
from typing import Final

_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{},]', re.DOTALL)
_MEMBER: Final = re.compile(rb'("[^"\\]*+(?:\\.[^"\\]*+)*+")[ \t\r\n]*:[ \t\r\n]*(.+)', re.DOTALL)
_BLANK: Final = b" \t\r\n"


def elements(text: bytes) -> list[bytes]:
    """The elements of a JSON array, or the members of an object with their names. text: JSON.

    Raises ValueError if it is certainly neither.
    """
    text = text.strip(_BLANK)
    if (text[:1], text[-1:]) not in ((b"[", b"]"), (b"{", b"}")):
        raise ValueError("it is not JSON")
    parts = []
    depth, start = 0, 1
    for token in _TOKEN.finditer(text):
        match token[0]:
            case b"[" | b"{":
                depth += 1
            case b"]" | b"}":
                depth -= 1
            case b"," if depth == 1:
                parts.append(text[start : token.start()])
                start = token.end()
    if depth:
        raise ValueError("it is not JSON: a bracket is missing")
    last = text[start:-1].strip(_BLANK)
    return [*(each.strip(_BLANK) for each in parts), *([last] if last else [])]


def members(text: bytes) -> dict[str, bytes]:
    """The members of a JSON object by their names. Raises ValueError if it is not an object."""
    found = {}
    for each in elements(text):
        member = _MEMBER.fullmatch(each)
        if member is None:
            raise ValueError("it is not a JSON object")
        found[str(json.loads(member[1]))] = member[2]
    return found
