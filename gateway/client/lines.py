"""`put --lines`: puts every line of a file on a queue, and says how to continue after an interruption."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import click

from gateway.client import interrupts, options, sending
from gateway.client.api import GatewayApi
from gateway.client.failures import CallFailed
from gateway.client.progress import ProgressBar
from gateway.client.sending import Done, Line
from gateway.common.counted import counted


def put_lines(
    api: GatewayApi,
    queue: str,
    file: Path,
    *,
    skip: int,
    key: str,
    params: Mapping[str, Any],
    headers: Mapping[str, str],
) -> int:
    """Stores every line that is not blank, behind the first `skip` ones. Returns the exit code.

    key: with the same one the same lines are stored once, even by another run of the command.
    """
    limits = api.call("GET", "/").json()["limits"]
    form = sending.RAW_LINES if api.is_raw(queue) else sending.NDJSON
    sender = sending.LineSender(api, queue, form, partial(request_key, "put", key), params=params, headers=headers)
    done = sender.done
    batch: list[Line] = []
    size: int | None = None
    try:
        with opened(file) as source, ProgressBar("storing", size := size_of(source), in_bytes=True) as bar:
            lines = _behind(skip, sending.read(source, form))
            for batch in sending.batches(lines, limits["max_batch_jobs"], limits["max_batch_bytes"]):
                with interrupts.later():
                    sender.store(batch)
                bar.reached(batch[-1].end)
    except (CallFailed, KeyboardInterrupt) as exc:
        if isinstance(exc, KeyboardInterrupt) and is_done(batch, done, size):
            return _finished(queue, done)
        known = (isinstance(exc, CallFailed) and exc.status) or not batch or done.lines == batch[-1].number
        perhaps = "" if known else f", and perhaps up to {len(batch)} of those that follow"
        stored = counted(done.stored, "job is stored", "jobs are stored")
        options.notice(f"{stored}{perhaps}; continue with --skip {max(done.lines, skip)}")
        if isinstance(exc, CallFailed):
            raise
        return options.INTERRUPTED
    return _finished(queue, done)


def _finished(queue: str, done: Done) -> int:
    """Prints what is stored. Returns the exit code."""
    click.echo(
        f"{counted(done.stored, 'job')} stored on {queue}" + (f", {done.refused} not accepted" if done.refused else "")
    )
    return options.FAILED if done.refused else 0


def is_done(batch: Sequence[Line], done: Done, size: int | None) -> bool:
    """Whether the last batch ends the file, and its outcome is known. size: None if the file has no known end."""
    return bool(batch) and batch[-1].end == size and done.lines == batch[-1].number


def request_key(command: str, run: str, first: Line, body: bytes) -> str:
    """The Idempotency-Key of a request: the same for the same lines of a run, however often it is interrupted."""
    return f"{command}-" + hashlib.sha256(f"{run} {first.number} ".encode() + body).hexdigest()


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
