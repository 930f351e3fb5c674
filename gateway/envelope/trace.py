"""Trace context that travels with a job. Pure.

Source: W3C Trace Context, sections 3.2 (traceparent) and 3.3 (tracestate).
"""

from __future__ import annotations

import re

MAX_STATE = 512
MAX_MEMBERS = 32

_PARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?")
_MEMBER = re.compile(
    r"((?:[a-z][a-z0-9_*/-]{0,255})|(?:[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13}))"
    r"=([ -+\--<>-~]{0,255}[!-+\--<>-~])"
)


def is_traceparent(text: str) -> bool:
    """Whether `text` is a valid traceparent."""
    found = _PARENT.fullmatch(text) if len(text) <= MAX_STATE else None
    return found is not None and (found[1] != "00" or found[2] is None)


def is_tracestate(text: str) -> bool:
    """Whether `text` is a list of vendors' states with each vendor once."""
    if len(text) > MAX_STATE:
        return False
    found = [_MEMBER.fullmatch(each.strip(" \t")) for each in text.split(",") if each.strip(" \t")]
    names = {each[1] for each in found if each is not None}
    return 0 < len(found) <= MAX_MEMBERS and len(names) == len(found)
