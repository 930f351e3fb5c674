"""What the C library does with memory that is freed. Plain functions; nothing where it is not glibc."""

from __future__ import annotations

import contextlib
import ctypes
from typing import Final

LARGE_BYTES: Final = 2 << 20
"""More than the largest job by default: a block of its own costs a page fault for each 4 KiB of it."""
# Source: glibc's malloc.h.
_M_MMAP_THRESHOLD: Final = -3


def return_large_blocks() -> None:
    """From now on a block of LARGE_BYTES or more goes back to the system when it is freed.

    By itself glibc raises that size to the largest block ever freed, and keeps such blocks. Call it before there is
    one.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
