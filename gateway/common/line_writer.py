"""Writes lines to a file descriptor, such as standard error, and never waits for its reader.

1. Lines that are added in one turn of the event loop are written together, at the turn's end. An urgent line is written
   at once, after the lines before it; so is a line that is added where no event loop runs.
2. A write has at most PIPE_BUF bytes, and ends with a line unless one line is longer. So lines of processes that share
   a pipe do not mix. Source: pipe(7).
3. While the reader does not read, up to LIMIT_BYTES wait. Further lines are dropped and counted, and the next line that
   has room is `dropped(count)`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

LIMIT_BYTES: Final = 1 << 20
PIPE_BUF: Final = select.PIPE_BUF
RETRY_S: Final = 0.05
"""The time between two attempts to write while the reader does not read."""
CLOSE_S: Final = 0.5
"""How long `close` waits for the reader."""


class LineWriter:
    """dropped: the line that reports how many lines were dropped. Used by all threads of a process."""

    def __init__(self, fd: int, dropped: Callable[[int], bytes]) -> None:
        self._write, self._close = _writing(fd)
        self._dropped_line = dropped
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0
        self._lock = threading.Lock()
        self._flushes_on: asyncio.AbstractEventLoop | None = None  # it has a call of `flush` scheduled

    def add(self, *lines: bytes, urgent: bool = False) -> None:
        """Adds lines that end with LF. urgent: they are written at once."""
        size = sum(map(len, lines))
        with self._lock:
            if self._dropped or self._bytes + size > LIMIT_BYTES:
                for line in lines:
                    self._append(line)
            else:
                self._lines.extend(lines)
                self._bytes += size
        if urgent or not self._flush_later(0):
            self.flush()

    def _append(self, line: bytes) -> None:
        if self._bytes + len(line) > LIMIT_BYTES:
            self._dropped += 1
            return
        if self._dropped:
            dropped = self._dropped_line(self._dropped)
            self._lines.append(dropped)
            self._bytes += len(dropped)
            self._dropped = 0
        self._lines.append(line)
        self._bytes += len(line)

    def flush(self) -> None:
        """Writes what the reader takes now; what is left is tried again."""
        with self._lock:
            self._flushes_on = None
            try:
                while self._lines:
                    self._write_some()
            except BlockingIOError:
                self._flush_later(RETRY_S)
            except OSError:  # the reader is gone, or the disk is full
                self._lines.clear()
                self._bytes = 0

    def close(self) -> None:
        """Writes what is left, for at most CLOSE_S. Lines that are added later are discarded."""
        ends_s = time.monotonic() + CLOSE_S
        self.flush()
        while self._lines and time.monotonic() < ends_s:
            time.sleep(RETRY_S)
            self.flush()
        with self._lock:
            self._close()
            self._write = _closed

    def _write_some(self) -> None:
        lines = self._lines
        data = lines.popleft()
        if lines and len(data) + len(lines[0]) <= PIPE_BUF:
            parts, size = [data], len(data)
            while lines and size + len(lines[0]) <= PIPE_BUF:
                size += len(lines[0])
                parts.append(lines.popleft())
            data = b"".join(parts)
        written = 0
        try:
            written = self._write(data)
        finally:
            self._bytes -= written
            if written < len(data):
                lines.appendleft(data[written:])

    def _flush_later(self, delay_s: float) -> bool:
        """Whether `flush` will be called; otherwise no event loop runs in this thread."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        if self._flushes_on is not loop:
            self._flushes_on = loop
            if delay_s:
                loop.call_later(delay_s, self.flush)
            else:
                loop.call_soon(self.flush)
        return True


def _writing(fd: int) -> tuple[Callable[[bytes], int], Callable[[], None]]:
    """Writes bytes to `fd` and returns how many; and closes what this opened.

    The first raises BlockingIOError instead of waiting, and OSError. O_NONBLOCK belongs to the open file, which other
    processes share, such as the shell: so the file is opened again.
    """
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return _closed, _nothing
    if stat.S_ISSOCK(mode):
        sock = socket.socket(fileno=os.dup(fd))
        return lambda data: sock.send(data, socket.MSG_DONTWAIT), sock.close
    if stat.S_ISREG(mode):
        return partial(os.write, fd), _nothing
    try:
        own = os.open(f"/dev/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:  # it belongs to another user, or the system has no /dev/fd
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        return partial(_write_if_ready, fd, poll), _nothing
    return partial(os.write, own), partial(os.close, own)


def _write_if_ready(fd: int, poll: select.poll, data: bytes) -> int:
    if not poll.poll(0):
        raise BlockingIOError
    return os.write(fd, data[:PIPE_BUF])


def _closed(_data: bytes) -> int:
    raise OSError(errno.EBADF, "closed")


def _nothing() -> None:
    pass
