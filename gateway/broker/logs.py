"""One line per record on standard error, as text or as JSON, in the format of the gateway's other processes.

A small copy of gateway/logs.py, because the broker imports nothing of the gateway; a test compares the two.
"""

from __future__ import annotations

import json
import logging
import sys
import time

_PROCESS = "broker"


def set_up(log_format: str, log_level: str) -> None:
    """Writes every record of `log_level` or above to standard error. `log_format` is `text` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if log_format == "json" else _Text())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(log_level.upper())


_EVERY_S = 10.0


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


class _Text(logging.Formatter):
    """`2026-01-31T12:00:00.123Z INFO broker: message`; a line break in a message appears as an escape."""

    def format(self, record: logging.LogRecord) -> str:
        message = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in record.getMessage())
        line = f"{_timestamp(record)} {record.levelname} {_PROCESS}: {message}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Json(logging.Formatter):
    """One object: time, level, process, logger, message, exception."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "process": _PROCESS,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, separators=(",", ":"))


def _timestamp(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
