"""What /proc says about processes."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

START_S: Final = 30.0
"""The limit of a start, for a test that would wait for ever otherwise: alone it takes less than a second."""


def group_lives(group: int) -> bool:
    """Whether a process group has a process that is not a zombie."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group and fields[0] != "Z":
                return True
    return False


def children_of(parent: int) -> dict[int, str]:
    """The child processes of a process: number and command line."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(status.read_text().rpartition(")")[2].split()[1]) == parent:
                found[int(status.parent.name)] = (status.parent / "cmdline").read_text().replace("\0", " ")
    return found
