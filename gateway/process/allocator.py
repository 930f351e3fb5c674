"""What the C library does with freed memory. Does nothing if the C library is not glibc."""

from __future__ import annotations

import contextlib
import ctypes
from typing import Final

LARGE_BYTES: Final = 2 << 20
"""Above the default limit of a job: a block of its own costs a page fault per 4 KiB."""
# Source: glibc's malloc.h.
_M_MMAP_THRESHOLD: Final = -3


def return_large_blocks() -> None:
    """From now on a block of LARGE_BYTES or more returns to the system when it is freed.

    By default glibc raises this threshold to the largest block ever freed, and keeps such blocks. Call this function
    before such a block exists.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
