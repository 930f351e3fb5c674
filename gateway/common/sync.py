"""Durability of files and of their names."""

from __future__ import annotations

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Returns when the content of the file, or the names in the directory, are on disk. Raises OSError.

    A file without its name on disk is lost in a power cut.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
