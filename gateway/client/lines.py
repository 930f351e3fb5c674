"""Puts every line of a file on a queue, in requests of many jobs, each stored once however often it is sent.

1. Lines are sent in their order, as many a request as the gateway allows, and their bytes are not changed.
2. A request that is repeated has the same Idempotency-Key. Jobs that the gateway could not store now are sent
   again, with a key of their own.
3. What is reported as stored is on disk. After a failure the report says how many lines are done.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from gateway.client import failures, options
from gateway.client.api import GatewayApi, queue_path
from gateway.client.failures import CallFailed

_NDJSON: Final = "application/x-ndjson"
_SHARE: Final = 0.9
"""How much of the gateway's limit of bytes a request uses: a limit is one of the whole body."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line without its line break. number: from 1 on, as an editor counts."""

    number: int
    job: bytes


def put_lines(
    api: GatewayApi, queue: str, file: Path, *, skip: int, params: Mapping[str, Any], headers: Mapping[str, str]
) -> int:
    """Stores every line that is not blank. Returns the exit code."""
    limits = api.call("GET", "/").json()["limits"]
    send = partial(_send, api, queue, params, headers)
    done = Done()
    try:
        with _opened(file) as source, ProgressBar(source) as bar:
            for lines in batches(read(source, skip), limits["max_batch_jobs"], limits["max_batch_bytes"]):
                _store(api, send, lines, done)
                done.lines = lines[-1].number
                bar.advance(sum(len(line.job) + 1 for line in lines))
    except (CallFailed, KeyboardInterrupt) as exc:
        options.notice(f"{done.stored} jobs are stored; continue with --skip {max(done.lines, skip)}")
        if isinstance(exc, CallFailed):
            raise
        return 130
    click.echo(f"{done.stored} jobs stored on {queue}" + (f", {done.refused} not accepted" if done.refused else ""))
    return options.FAILED if done.refused else 0


@dataclass(slots=True)
class Done:
    """What became of the lines so far. lines: the number of the last line whose outcome is known."""

    lines: int = 0
    stored: int = 0
    refused: int = 0


def read(source: BinaryIO, skip: int) -> Iterator[Line]:
    """The lines behind the first `skip` ones, without blank ones."""
    for number, text in enumerate(source, 1):
        job = text.strip(b" \t\r\n")
        if job and number > skip:
            yield Line(number, job)


def batches(lines: Iterator[Line], most: int, most_bytes: int) -> Iterator[list[Line]]:
    """The lines in groups that fit in one request. A line that fits in none is a group of its own."""
    group: list[Line] = []
    size = 0
    for line in lines:
        if group and (len(group) == most or size + len(line.job) + 1 > most_bytes * _SHARE):
            yield group
            group, size = [], 0
        group.append(line)
        size += len(line.job) + 1
    if group:
        yield group


def _store(api: GatewayApi, send: Callable[[list[Line]], list[dict[str, Any]]], lines: list[Line], done: Done) -> None:
    """Stores the lines, and reports those that the gateway does not accept. Raises CallFailed."""
    tries, began_s = 0, time.monotonic()
    while lines:
        results = send(lines)
        later = []
        for line, result in zip(lines, results, strict=True):
            if "code" not in result:
                done.stored += 1
            elif result["retryable"]:
                later.append((line, result))
            else:
                done.refused += 1
                options.notice(f"line {line.number}: {result['code']}: {result['detail']}")
        lines = [line for line, _ in later]
        if later:
            result = later[0][1]
            tries += 1
            pause_s = failures.pause_s(tries)
            if not api.may_wait(time.monotonic() - began_s, pause_s):
                raise CallFailed(result["code"], result["detail"], status=result["status"], retryable=True)
            options.notice(f"{len(lines)} jobs: {result['code']}; next try in {pause_s:.1f} s")
            time.sleep(pause_s)


def _send(
    api: GatewayApi, queue: str, params: Mapping[str, Any], headers: Mapping[str, str], lines: list[Line]
) -> list[dict[str, Any]]:
    """One result for each line."""
    key = {"Idempotency-Key": str(uuid.uuid4()), "Content-Type": _NDJSON}
    body = b"".join(line.job + b"\n" for line in lines)
    try:
        answer = api.call("POST", f"{queue_path(queue)}/jobs", content=body, headers={**headers, **key}, params=params)
    except CallFailed as failed:
        if failed.status in (400, 413) and len(lines) == 1:
            return [{"status": failed.status, "code": failed.code, "detail": _text(failed), "retryable": False}]
        if failed.status in (400, 413):  # every line failed alike, or the request as a whole: each line for itself
            return [result for line in lines for result in _send(api, queue, params, headers, [line])]
        raise
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


def _text(failed: CallFailed) -> str:
    return str(failed).partition(": ")[2]


def _opened(file: Path) -> BinaryIO:
    if file == Path("-"):
        return sys.stdin.buffer
    try:
        return file.open("rb")
    except OSError as exc:
        raise click.UsageError(f"{file} cannot be read: {exc.strerror}") from exc


class ProgressBar:
    """A progress bar on a terminal; nothing elsewhere. Its size is that of the file, if it has one."""

    def __init__(self, source: BinaryIO) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
        self._source = source

    def __enter__(self) -> Self:
        self._progress.start()
        size = self._source.seek(0, 2) if self._source.seekable() else None
        if size is not None:
            self._source.seek(0)
        self._task = self._progress.add_task("storing", total=size)
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, count: int) -> None:
        self._progress.advance(self._task, count)
