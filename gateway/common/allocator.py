"""What the C library does with freed memory. Does nothing if the C library is not glibc.

Jobs are large and of every size, so freed memory lies in pieces between what is still in use. By itself glibc returns
only what is at the end of the heap.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from pathlib import Path
from typing import Final

OWN_BLOCK_BYTES: Final = 2 << 20
"""Above the default limit of a job: a block of its own costs a page fault per 4 KiB."""
KEPT_BYTES: Final = 16 << 20
"""Freed memory at the end of the heap up to this is kept: each job of 1 MiB would cost 256 page faults again."""
RETURN_EVERY_S: Final = 5.0
GROWN_BYTES: Final = 32 << 20
"""A process that has grown by less than this since its start looks for no freed memory."""
# Source: glibc's malloc.h.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_STATM: Final = Path("/proc/self/statm")


def return_large_blocks() -> None:
    """From now on a block of OWN_BLOCK_BYTES or more returns to the system when it is freed.

    By default glibc raises this threshold to the largest block ever freed, and keeps such blocks. Call this function
    before such a block exists.
    """
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, OWN_BLOCK_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)


async def return_free_memory() -> None:
    """Returns freed memory to the system every RETURN_EVERY_S, while the process is larger than at its start.

    Runs until cancelled. Does nothing where the system does not tell the size of a process.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
        least_bytes = _resident_bytes() + GROWN_BYTES
    except (AttributeError, OSError):
        return
    while True:
        await asyncio.sleep(RETURN_EVERY_S)
        with contextlib.suppress(OSError):  # no free descriptor; the next attempt may find one
            if _resident_bytes() > least_bytes:
                await asyncio.to_thread(trim, 0)


def _resident_bytes() -> int:
    """The memory that the process holds. Raises OSError."""
    return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
