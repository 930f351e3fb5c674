"""Random bytes for ids, read from the system in blocks: one system call serves many ids. Thread-safe."""

from __future__ import annotations

import os
from collections import deque
from typing import Final

NONCE_BYTES: Final = 16
_BLOCK: Final = 256

_ready: deque[bytes] = deque()
os.register_at_fork(after_in_child=_ready.clear)


def nonce() -> bytes:
    """128 random bits, different for each call."""
    try:
        return _ready.popleft()
    except IndexError:
        drawn = os.urandom(NONCE_BYTES * _BLOCK)
        _ready.extend([drawn[start : start + NONCE_BYTES] for start in range(NONCE_BYTES, len(drawn), NONCE_BYTES)])
        return drawn[:NONCE_BYTES]


def new_request_id() -> str:
    """16 random hexadecimal digits."""
    return nonce()[:8].hex()
