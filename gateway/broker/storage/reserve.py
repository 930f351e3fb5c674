"""Disk space that is reserved for removals: on a full disk, acks still need some. Only a file, no SQL."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

NAME = "broker.reserve"
BYTES = 8 << 20
"""Twice the size of the log at a checkpoint, so that a full disk still has space for a checkpoint."""


class Reserve:
    """The file `broker.reserve` of a data directory. `taken`: whether this process holds its space."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self.taken = False

    def take(self) -> str | None:
        """Reserves the space. Returns None, or why there is none."""
        why = self._allocate(BYTES)
        self.taken = why is None
        return why

    def give(self) -> None:
        """Frees the space for others."""
        self.taken = False
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def leave(self) -> None:
        """Leaves the file for the next start, as large as possible, because the disk may be full then."""
        if not self.taken:
            for size in (BYTES, BYTES // 8):
                if self._allocate(size) is None:
                    break

    def use(self) -> bool:
        """Frees what the last run left. False if there was nothing."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        return True

    def _allocate(self, size: int) -> str | None:
        try:
            with self._path.open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as exc:
            if exc.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                self._path.unlink(missing_ok=True)
                return f"cannot write: {exc.strerror or exc}"
        return None
