"""Locks of files by flock, which end with the process that holds them."""

from __future__ import annotations

import fcntl
import time
from typing import Final

KILLED_WAIT_S: Final = 1.0
"""How long a process that was killed may take to end. What needs its lock waits that long, and is refused then."""
_PAUSE_S: Final = 0.02
"""flock cannot wait for a limited time, so it is tried again."""


def locked_within(wait_s: float, descriptor: int) -> bool:
    """Locks the file for this process alone. False if another one holds the lock all the time. Raises OSError."""
    deadline_s = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(_PAUSE_S)
        else:
            return True
