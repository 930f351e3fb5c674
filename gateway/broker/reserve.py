"""Room on the disk that is kept for removals: when the disk is full, acks still need some. No SQL but a file."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

NAME = "broker.reserve"
BYTES = 8 << 20
"""Twice what the log holds before it is folded into the file, so that a full disk still has room to fold it."""


class Reserve:
    """The file `broker.reserve` of a data directory. `taken`: whether this process holds its room."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self.taken = False

    def take(self) -> str | None:
        """None, or why there is no room."""
        why = self._allocate(BYTES)
        self.taken = why is None
        return why

    def give(self) -> None:
        """The room is free for others."""
        self.taken = False
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def leave(self) -> None:
        """The next start finds it, as much of it as there is room for: the disk may be full then."""
        if not self.taken:
            for size in (BYTES, BYTES // 8):
                if self._allocate(size) is None:
                    break

    def use(self) -> bool:
        """Frees what the last run has left. False where there was nothing."""
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
