"""Names of queues and the Kestrel keys they stand for. Pure; nothing that is not a legal name gets past here.

1. A name is `[A-Za-z0-9_-]{1,64}`, begins and ends with a letter or digit, and holds no `__`.
2. The reserved words are the suffixes that keys of dead letters end in.
3. A key is made of names and separators that no name can hold, so it can be read back.

Kestrel reads `/`, `+`, `.`, `~`, blanks and line ends in a key as options, fanout or commands: none is in the alphabet.
Source: kestrel-wire.md, "Names and errors".
"""

from __future__ import annotations

import re
from functools import lru_cache

from gateway.errors import InvalidName

MAX_NAME = 64
RESERVED = frozenset({"dead", "subdead"})

PATTERN = "^[A-Za-z0-9]+(?:(?:_|_?(?:-_?)+)[A-Za-z0-9]+)*$"
"""Rule 1 but for the length, without look-around, so that openapi.yaml can say the same."""

_NAME = re.compile(PATTERN.strip("^$"))


def _is_name(text: str) -> bool:
    return len(text) <= MAX_NAME and text not in RESERVED and _NAME.fullmatch(text) is not None


@lru_cache(maxsize=4096)
def key_of(queue: str) -> str:
    """The Kestrel key of a queue.

    Raises:
        InvalidName: `queue` is not a legal name; the detail says what a name may be.
    """
    if _is_name(queue):
        return queue
    if queue in RESERVED:
        raise InvalidName(f"{queue!r} is reserved")
    shown = queue if len(queue) <= 80 else queue[:77] + "..."
    raise InvalidName(
        f"{shown!r} is not a queue name: use 1 to {MAX_NAME} of A-Z a-z 0-9 _ -, "
        "the first and the last a letter or digit, no two underscores in a row"
    )


def queue_of(key: str) -> str | None:
    """The queue a Kestrel key stands for; None for keys that are not of this contract (foreign, fanout)."""
    return key if _is_name(key) else None
