"""A progress bar on a terminal; nothing elsewhere."""

from __future__ import annotations

import sys
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class ProgressBar:
    """total: None if it is not known. in_bytes: it counts bytes, not jobs."""

    def __init__(self, what: str, total: int | None, *, in_bytes: bool = False) -> None:
        count = DownloadColumn() if in_bytes else MofNCompleteColumn()
        columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
        self._task = self._progress.add_task(what, total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def reached(self, count: int, total: int | None = None) -> None:
        """total: None if it is the same as before."""
        self._progress.update(self._task, completed=count, total=total)
