"""Standard input, output and error of a command: files that are closed, and what cannot be written."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from gateway.common.one_line import one_line

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

FAILED: Final = 1
_STDERR: Final = 2

_OF_WRITES: Final = frozenset({errno.EBADF, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC, errno.EPIPE})
"""What a write to a terminal, a pipe or a file can fail with. Source: write(2)."""


class ClosedOutput(io.TextIOWrapper):
    """Standard output of a command that was started without one, as with `>&-`. What is written to it is discarded."""


class _Unfailing(io.FileIO):
    """Standard error. What it cannot write is lost, and the command goes on: nobody could be told."""

    def write(self, data: Buffer, /) -> int:
        with suppress(OSError):
            written = super().write(data)
            if written is not None:  # None: a file that does not block has no room
                return written
        return memoryview(data).nbytes


def error_line(text: str) -> None:
    """Writes one line on standard error, whatever names it contains."""
    sys.stderr.write(one_line(text) + "\n")


def open_closed() -> None:
    """Opens the null device for each standard file that is closed, so that no file or socket gets its number."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            binary = io.FileIO(number, mode, closefd=False)
            buffer = io.BufferedReader(binary) if mode == "r" else io.BufferedWriter(binary)
            setattr(sys, name, (ClosedOutput if name == "stdout" else io.TextIOWrapper)(buffer, encoding="utf-8"))


def ignore_lost_messages() -> None:
    """From here on a message that cannot be written, as on a full disk, changes neither the work nor the exit code."""
    with suppress(OSError):  # in a test it is no file
        if sys.stderr.fileno() != _STDERR:
            return
        encoding, errors = sys.stderr.encoding, sys.stderr.errors
        buffer = io.BufferedWriter(_Unfailing(_STDERR, "w", closefd=False))
        sys.stderr = io.TextIOWrapper(buffer, encoding=encoding, errors=errors, line_buffering=True)


def is_closed() -> bool:
    """Whether the command was started without standard output."""
    return isinstance(sys.stdout, ClosedOutput)


def write_any_path() -> None:
    """From here on standard output writes a path as its bytes, also if they are not UTF-8."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")


@contextmanager
def checked_output(program: str) -> Iterator[None]:
    """Ends the process with FAILED if its output cannot be written. A reader that has gone needs no message."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as exc:
        if exc.filename is not None or exc.errno not in _OF_WRITES:
            raise
        discard_output()
        if exc.errno != errno.EPIPE:
            error_line(
                f"{program}: standard output: {exc.strerror}; the output is incomplete, and what the command has "
                "changed remains"
            )
        sys.exit(FAILED)


def discard_output() -> None:
    """Discards what is buffered for standard output. Python would try to write it at the exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
