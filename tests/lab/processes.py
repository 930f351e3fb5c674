"""What /proc says about processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

START_S: Final = 30.0
"""The limit of a start, for a test that would wait for ever otherwise: alone it takes less than a second."""


def group_lives(group: int) -> bool:
    """Whether a process group has a process that is not a zombie, or is one whose other threads have not ended: until
    then its files are open and its ports taken."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:  # not even a zombie
        return False
    return any(int(fields[2]) == group and (fields[0] != "Z" or int(fields[17]) > 1) for _, fields in _stats())


def children_of(parent: int) -> dict[int, str]:
    """The child processes of a process: number and command line."""
    found = {}
    with contextlib.suppress(OSError):  # it has ended
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            for pid in map(int, children.read_text().split()):
                with contextlib.suppress(OSError):
                    found[pid] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return found


def _stats() -> Iterator[tuple[int, list[str]]]:
    """The fields of every process, from its state on."""
    for name in os.listdir("/proc"):  # noqa: PTH208 (pathlib takes several times as long; scandir stays open after a break)
        if name.isdecimal():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as stat:  # noqa: PTH123
                yield int(name), stat.read().rpartition(b")")[2].decode().split()
