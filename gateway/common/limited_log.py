"""Log messages that clients can cause at will: few lines, with the number of those that were left out."""

from __future__ import annotations

import time

_EVERY_S = 10.0
"""The interval between two lines of one kind: at most 8,640 lines a day, whatever clients do."""


class LimitedLog:
    """Limits messages that clients can cause at will: one line per kind every ten seconds."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, int]] = {}  # kind -> time of the last line, number since then

    def count(self, kind: str) -> str | None:
        """The suffix for the line; None if no line may be written now. The code has a small, fixed number of kinds."""
        now_s = time.monotonic()
        told_s, silent = self._last.get(kind, (-_EVERY_S, 0))
        if now_s - told_s < _EVERY_S:
            self._last[kind] = (told_s, silent + 1)
            return None
        self._last[kind] = (now_s, 0)
        return f" ({silent} more like this since the last message)" if silent else ""
