"""Who may read and write the files that an operator names and the gateway makes, and when their names are on disk."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

PRIVATE_UMASK: Final = 0o077
"""Of every process that makes files: what is kept is for the user who runs the gateway."""


def read_trusted(path: Path) -> bytes:
    """The content of a file that decides what the gateway does.

    Raises:
        OSError: it cannot be read, or every user of the machine may write it.
    """
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISREG(mode) and mode & stat.S_IWOTH:
            raise PermissionError(errno.EPERM, f"every user may write it (mode {stat.S_IMODE(mode):04o}): chmod o-w it")
        return file.read()


def sync_directory(path: Path) -> None:
    """Returns when the names in the directory are on disk: a file whose name is not may be gone after a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Makes the directory and those above it (mode 0700) where they are missing, on disk before it returns.

    Raises OSError.
    """
    if path.is_dir():
        return
    if path.exists():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    make_directory(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    sync_directory(path.parent)


def make_private(path: Path) -> None:
    """Only its owner has rights to the file from now on. Does nothing where there is no such regular file."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISREG(mode) and mode & PRIVATE_UMASK:
        path.chmod(stat.S_IMODE(mode) & ~PRIVATE_UMASK)
