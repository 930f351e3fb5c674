"""`put --lines`: puts every line of a file on a queue, and says how to continue after an interruption."""

from __future__ import annotations

import contextlib
import signal
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import click

from gateway.client import options, sending
from gateway.client.api import GatewayApi
from gateway.client.failures import CallFailed
from gateway.client.progress import ProgressBar
from gateway.client.sending import Line


def put_lines(
    api: GatewayApi, queue: str, file: Path, *, skip: int, params: Mapping[str, Any], headers: Mapping[str, str]
) -> int:
    """Stores every line that is not blank, behind the first `skip` ones. Returns the exit code."""
    limits = api.call("GET", "/").json()["limits"]
    sender = sending.LineSender(
        api, queue, sending.NDJSON, lambda *_: str(uuid.uuid4()), params=params, headers=headers
    )
    done = sender.done
    batch: list[Line] = []
    try:
        with opened(file) as source, ProgressBar("storing", size_of(source), in_bytes=True) as bar:
            lines = _behind(skip, sending.read(source))
            for batch in sending.batches(lines, limits["max_batch_jobs"], limits["max_batch_bytes"]):
                with _interrupted_later():
                    sender.store(batch)
                bar.reached(batch[-1].end)
    except (CallFailed, KeyboardInterrupt) as exc:
        known = (isinstance(exc, CallFailed) and exc.status) or not batch or done.lines == batch[-1].number
        perhaps = "" if known else f", and perhaps up to {len(batch)} of the next ones"
        options.notice(f"{done.stored} jobs are stored{perhaps}; continue with --skip {max(done.lines, skip)}")
        if isinstance(exc, CallFailed):
            raise
        return options.INTERRUPTED
    click.echo(f"{done.stored} jobs stored on {queue}" + (f", {done.refused} not accepted" if done.refused else ""))
    return options.FAILED if done.refused else 0


@contextlib.contextmanager
def _interrupted_later() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt at the end, so that the outcome of a request is known; a second one at once."""
    came = False

    def interrupt(_number: int, _frame: Any) -> None:
        nonlocal came
        if came:
            raise KeyboardInterrupt
        came = True

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


def _behind(skip: int, lines: Iterator[Line]) -> Iterator[Line]:
    """The lines behind the first `skip` ones. Raises click.UsageError if there are fewer: it is another file."""
    last = 0
    for line in lines:
        last = line.number
        if last > skip:
            yield line
    if last < skip:
        raise click.UsageError(f"skip: {skip} is above the number of lines, {last}; nothing is stored")


def opened(file: Path) -> BinaryIO:
    """The file, or standard input for `-`. Raises click.UsageError."""
    if file == Path("-"):
        return sys.stdin.buffer
    try:
        return file.open("rb")
    except OSError as exc:
        raise click.UsageError(f"{file} cannot be read: {exc.strerror}") from exc


def size_of(source: BinaryIO) -> int | None:
    """The bytes of a file; None for what has no end yet, such as a pipe."""
    if not source.seekable():
        return None
    size = source.seek(0, 2)
    source.seek(0)
    return size
