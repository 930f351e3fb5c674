"""Permissions and durability of the files that an operator names and of those that the gateway makes."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

from gateway.common.sync import sync

PRIVATE_UMASK: Final = 0o077
"""The umask of every process that makes files: only the user who runs the gateway may read them."""


def read_trusted(path: Path) -> bytes:
    """The content of a file that controls the gateway.

    Raises:
        OSError: it cannot be read, or every user of the machine may write it.
    """
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISREG(mode) and mode & stat.S_IWOTH:
            raise PermissionError(errno.EPERM, f"every user may write it (mode {stat.S_IMODE(mode):04o}): chmod o-w it")
        return file.read()


def make_directory(path: Path) -> None:
    """Makes the directory and its missing parents (mode 0700). They are on disk when it returns.

    Raises OSError.
    """
    if path.is_dir():
        return
    if path.exists():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    make_directory(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    sync(path.parent)


def make_private(path: Path) -> None:
    """Leaves only the owner's rights to the file. Does nothing if there is no such regular file."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISREG(mode) and mode & PRIVATE_UMASK:
        path.chmod(stat.S_IMODE(mode) & ~PRIVATE_UMASK)
