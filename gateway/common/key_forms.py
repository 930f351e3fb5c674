"""What a queue is for, by the form of its key alone: for reports that do not know a deployment's names. Pure.

Source: docs/contract.md, "Names"; gateway/names/namespace.py makes the keys.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

_INTERNAL: Final = re.compile(rb"(?:.+__)?_kestrel-gateway__(.+)", re.DOTALL)
_DEAD: Final = (b"__dead", b"__subdead")
_DELAY: Final = b"delay-"


class KeyForm(Enum):
    """What the items of a queue are for users. INTERNAL: nothing that they know."""

    JOBS = "jobs"
    DEAD_LETTERS = "dead letters"
    DELAYED_JOBS = "delayed jobs"
    INTERNAL = "internal"


def key_form(key: bytes) -> KeyForm:
    """The form of the key."""
    if (internal := _INTERNAL.fullmatch(key)) is not None:
        return KeyForm.DELAYED_JOBS if internal[1].startswith(_DELAY) else KeyForm.INTERNAL
    return KeyForm.DEAD_LETTERS if key.endswith(_DEAD) else KeyForm.JOBS
