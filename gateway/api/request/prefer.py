"""The header Prefer: the client's preferences; `Preference-Applied` confirms those that are applied. Pure.

Source: RFC 7240, section 2; Knative Eventing's data plane contract ("Derived (Reply) Events") for `reply`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

MAX_LENGTH: Final = 512
"""Limit for all Prefer headers of a request together; the rest is not read."""

_ONE = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*(?:"|\\?\Z))+', re.DOTALL)
_PREFERENCE = re.compile(
    r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*(?:=\s*(?:"([^"\\]*)"|([^\s";,]*)))?\s*(?:;.*)?', re.DOTALL
)


def preferences(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Each preference's value, empty if it has none, by its lower-case name. The first of several counts."""
    found: dict[str, str] = {}
    values = [value for name, value in headers if name == b"prefer"]
    if not values:
        return found
    text = b",".join(values)[:MAX_LENGTH].decode("latin-1")
    for each in _ONE.findall(text):
        preference = _PREFERENCE.fullmatch(each)
        if preference is not None:
            found.setdefault(preference[1].lower(), preference[2] or preference[3] or "")
    return found
