"""A gateway of an earlier release."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.lab.gateway import Running


class Released(Running):
    """A gateway of the sources of a release, with today's libraries."""

    start_s = 60.0  # nothing of it is imported yet

    def __init__(self, sources: Path, data: Path, *flags: str, port: int | None = None) -> None:
        python = sources / "python"
        python.write_text(f'#!/bin/sh\nPYTHONPATH={sources} exec {sys.executable} "$@"\n')
        python.chmod(0o700)
        self.python = str(python)
        self.folder = sources
        super().__init__(data, *flags, port=port)
