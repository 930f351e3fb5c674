"""Sets up logging for every process of the gateway: one line per record on standard error, as text or as JSON.

Owns only the format; line_writer.py writes the lines. Records carry their fields in `extra={"fields": {...}}`. Fields
never hold bodies or keys.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Final, Protocol

from gateway.common.counted import counted
from gateway.common.line_writer import LineWriter
from gateway.common.one_line import one_line

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_FORMATTER: Final = logging.Formatter()
_output: StandardError | None = None
"""Where the lines of this process go, after `set_up`."""


def set_up(log_format: str, log_level: str, process: str) -> None:
    """Writes every record of `log_level` or above to standard error, each as one line that names `process`.

    `log_format` is `text` or `json`. May be called again; the last call counts.
    """
    global _output  # noqa: PLW0603 (like logging's own handlers)
    _output = StandardError(JsonLines(process) if log_format == "json" else TextLines(process))
    root = logging.getLogger()
    root.handlers = [_output]
    root.setLevel(LEVELS[log_level])
    # A line names neither thread nor caller. Not looking them up halves the cost of a record.
    # Source: docs.python.org/3/howto/logging.html, "Optimization".
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 (the documented way)
    # The gateway logs its own start and stop, so the server's information records are dropped; its warnings stay.
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, LEVELS[log_level]))
    logging.getLogger("asyncio").setLevel(max(logging.WARNING, LEVELS[log_level]))


def request(logger: logging.Logger, level: int, fields: Mapping[str, object]) -> None:
    """Like `logger.log(level, "request", extra={"fields": fields})`, at a third of its time: for a line per request.

    level: DEBUG or INFO; the logger is enabled for it.
    """
    if _output is None:
        logger.log(level, "request", extra={"fields": fields})
    else:
        name = "INFO" if level == logging.INFO else "DEBUG"
        _output.add_request(name, logger.name, fields)


class StandardError(logging.Handler):
    """Writes each record as one line. Lines below a warning are written at the end of the event loop's turn.

    The lines of requests are also formatted then: many in a row take a third of the time of one at a time, because the
    code and its data are in the processor's caches.
    """

    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self.lines = lines
        self.writer = LineWriter(2, self._dropped)
        self._requests: deque[tuple[float, str, str, Mapping[str, object]]] = deque()
        self._formats_on: asyncio.AbstractEventLoop | None = None  # it has a call of `_write_requests` scheduled
        atexit.register(self.close_writer)

    def add_request(self, level: str, logger: str, fields: Mapping[str, object]) -> None:
        """Adds the line of a request. In the thread of the event loop only."""
        self._requests.append((time.time(), level, logger, fields))
        loop = asyncio.get_running_loop()
        if self._formats_on is not loop:
            self._formats_on = loop
            loop.call_soon(self._write_requests)

    def close_writer(self) -> None:
        """Writes what is left, as LineWriter.close does."""
        self._write_requests()
        self.writer.close()

    def handle(self, record: logging.LogRecord) -> bool:
        if self.filter(record):
            self.emit(record)
            return True
        return False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._write_requests()
            self.writer.add(self.format(record), urgent=record.levelno >= logging.WARNING)
        except Exception:  # noqa: BLE001 (a record that cannot be written must not stop the work)
            self.handleError(record)

    def format(self, record: logging.LogRecord) -> bytes:  # type: ignore[override]
        """The record's line."""
        fields = getattr(record, "fields", None)
        return self.lines.line(
            record.created,
            record.levelname,
            record.name,
            record.getMessage(),
            fields if isinstance(fields, dict) else {},
            exception=_FORMATTER.formatException(record.exc_info) if record.exc_info else "",
        )

    def _write_requests(self) -> None:
        self._formats_on = None
        requests, lines = self._requests, []
        with contextlib.suppress(IndexError):  # another thread does the same
            while requests:
                unix_s, level, logger, fields = requests.popleft()
                lines.append(self.lines.line(unix_s, level, logger, "request", fields))
        if lines:
            self.writer.add(*lines, urgent=True)

    def _dropped(self, count: int) -> bytes:
        message = f"{counted(count, 'log line was', 'log lines were')} dropped: nothing read standard error"
        return self.lines.line(time.time(), "WARNING", __name__, message, {})


class Lines(Protocol):
    """A format of log lines."""

    def line(
        self, unix_s: float, level: str, logger: str, message: str, fields: Mapping[str, object], *, exception: str = ""
    ) -> bytes:
        """One line with its LF. exception: a traceback, or empty."""


class TextLines:
    r"""`2026-01-31T12:00:00.123Z INFO worker-0: message key=value`; a line break in a message appears as `\n`."""

    def __init__(self, process: str) -> None:
        self._process = process
        self._clock = _Clock()
        self._forms: dict[tuple[str, ...], str] = {}  # by the names of the fields, which the program gives

    def line(
        self,
        unix_s: float,
        level: str,
        _logger: str,
        message: str,
        fields: Mapping[str, object],
        *,
        exception: str = "",
    ) -> bytes:
        """See Lines."""
        names = tuple(fields)
        form = self._forms.get(names)
        if form is None:
            form = self._forms[names] = "".join([f" {name}=%s" for name in names])
        tail = form % tuple(fields.values())  # one by one the fields take three times as long
        if tail.count(" ") != len(fields) or "= " in tail or tail.endswith("="):
            tail = "".join([f" {name}={_quoted(str(value))}" for name, value in fields.items()])
        # A message may contain a client's bytes, so line breaks are escaped. Only a traceback has several lines.
        line = f"{self._clock.text(unix_s)} {level} {self._process}: {one_line(message + tail)}"
        if exception:
            line += "\n" + exception
        return line.encode("utf-8", "backslashreplace") + b"\n"


class JsonLines:
    """One JSON object per line: time, level, process, logger, message, then the fields."""

    def __init__(self, process: str) -> None:
        import orjson  # noqa: PLC0415 (only this format needs it; `--help` stays quick)

        self._dumps = partial(orjson.dumps, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE)
        self._process = process
        self._clock = _Clock()

    def line(
        self, unix_s: float, level: str, logger: str, message: str, fields: Mapping[str, object], *, exception: str = ""
    ) -> bytes:
        """See Lines."""
        line = {
            "time": self._clock.text(unix_s),
            "level": level.lower(),
            "process": self._process,
            "logger": logger,
            "message": message,
            **fields,
        }
        if exception:
            line["exception"] = exception
        try:
            return self._dumps(line)
        except TypeError:  # orjson refuses the bytes of a path that are not UTF-8
            return json.dumps(line, default=str).encode() + b"\n"


class _Clock:
    """Formats instants as RFC 3339 in UTC. Keeps the texts of the last second and the last millisecond. Thread-safe."""

    def __init__(self) -> None:
        self._last_second = (-1, "")
        self._last_ms = (-1, "")

    def text(self, unix_s: float) -> str:
        last_ms, text = self._last_ms
        ms = int(unix_s * 1000)
        if ms != last_ms:
            text = f"{self._second(ms // 1000)}.{ms % 1000:03d}Z"
            self._last_ms = (ms, text)
        return text

    def _second(self, second: int) -> str:
        last, text = self._last_second
        if second != last:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._last_second = (second, text)
        return text


def _quoted(text: str) -> str:
    """The text, in quotes if it is empty or contains a space."""
    return text if text and " " not in text else repr(text)
