"""Sets up logging for every process of the gateway: one line per record on standard error, as text or as JSON.

Owns only the format. Records carry their fields in `extra={"fields": {...}}`; fields never hold bodies or keys.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any, Final

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def set_up(log_format: str, log_level: str, process: str) -> None:
    """Writes every record of `log_level` or above to standard error, each as one line that names `process`.

    `log_format` is `text` or `json`. May be called again; the last call counts.
    """
    handler = StandardError()
    handler.setFormatter(JsonLines(process) if log_format == "json" else TextLines(process))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(LEVELS[log_level])
    # A line names neither thread nor caller. Not looking them up halves the cost of a record.
    # Source: docs.python.org/3/howto/logging.html, "Optimization".
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 (the documented way)
    # The gateway logs its own start and stop, so the server's information records are dropped; its warnings stay.
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, LEVELS[log_level]))
    logging.getLogger("asyncio").setLevel(max(logging.WARNING, LEVELS[log_level]))


class StandardError(logging.Handler):
    """Writes each line with one system call and no lock, so that lines of threads and processes do not mix."""

    def handle(self, record: logging.LogRecord) -> bool:
        if self.filter(record):
            self.emit(record)
            return True
        return False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            left = self.format(record).encode("utf-8", "backslashreplace") + b"\n"
            while left:
                left = left[os.write(2, left) :]
        except OSError:
            pass  # The reader of standard error is gone; the work continues.
        except Exception:  # noqa: BLE001 (a record that cannot be written must not stop the work)
            self.handleError(record)


class TextLines(logging.Formatter):
    r"""`2026-01-31T12:00:00.123Z INFO worker-0: message key=value`; a line break in a message appears as `\n`."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process
        self._clock = _Clock()

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        tail = "".join(f" {name}={_bare(value)}" for name, value in fields.items())
        text = f"{self._clock.text(record.created)} {record.levelname} {self._process}: {record.getMessage()}{tail}"
        # A message may contain a client's bytes, so line breaks are escaped. Only a traceback has several lines.
        line = _one_line(text)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonLines(logging.Formatter):
    """One JSON object per record: time, level, process, logger, message, then the record's fields."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process
        self._clock = _Clock()

    def format(self, record: logging.LogRecord) -> str:
        import orjson  # noqa: PLC0415 (only this format needs it; `--help` stays quick)

        line: dict[str, Any] = {
            "time": self._clock.text(record.created),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(_fields(record))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, dict) else {}


class _Clock:
    """Formats instants as RFC 3339 in UTC. Keeps the text of the last second. Thread-safe."""

    def __init__(self) -> None:
        self._last = (-1, "")

    def text(self, unix_s: float) -> str:
        second, text = self._last
        if second != int(unix_s):
            second = int(unix_s)
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._last = (second, text)
        return f"{text}.{int((unix_s - second) * 1000):03d}Z"


def _bare(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return repr(text) if " " in text or not text else text


def _one_line(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
