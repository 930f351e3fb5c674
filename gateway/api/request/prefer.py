"""The header Prefer: what a client would like, and is told with `Preference-Applied` where it gets it. Pure.

Source: RFC 7240, section 2; Knative Eventing's data plane contract ("Derived (Reply) Events") for `reply`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

MAX_LENGTH: Final = 512
"""Of all Prefer headers of a request; what is behind it is not read."""

_ONE = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*(?:"|\\?\Z))+', re.DOTALL)
_PREFERENCE = re.compile(
    r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*(?:=\s*(?:"([^"\\]*)"|([^\s";,]*)))?\s*(?:;.*)?', re.DOTALL
)


def preferences(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Each preference's value, empty where it has none, by its name in lower case; of several the first counts."""
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
