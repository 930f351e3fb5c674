"""The commands `export` and `import`: a queue's jobs into a file of CloudEvents, one per line, and back.

1. `export` takes a batch, writes it, syncs the file, and only then acks it. After an interruption each job is in the
   file or on the queue, or in both. `--append` continues such a file: it cuts off an incomplete last line, and does
   not write again what the file has.
2. `import` notes after each request how far it is, beside the file. What was sent when it was interrupted is sent again
   with the same Idempotency-Key, so it is stored once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import uuid
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from gateway.client import interrupts, options
from gateway.client.failures import CallFailed
from gateway.client.target import Target
from gateway.common.counted import counted
from gateway.common.flags import QueueName, Seconds, WholeNumber
from gateway.common.net import reason
from gateway.common.one_line import one_line

if TYPE_CHECKING:
    from gateway.client.api import GatewayApi

_IMPORT_JOBS: Final = 500
"""Of one request. It does not follow the gateway's limit upwards, so that a repeated request has the same jobs."""
_TAIL_BYTES: Final = 4096


@click.command("export")
@click.argument("queue", type=QueueName())
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--append", is_flag=True, help="continue the file of an export that was interrupted")
@click.option(
    "--wait", "wait_s", type=Seconds(), default=0.0, help="end when no job has come for this time [default 0]"
)
@click.option("--max", "most", type=WholeNumber(1), help="maximum number of jobs to take [default: all]")
@options.where
@options.interruptible
def export_jobs(queue: str, file: Path, *, append: bool, wait_s: float, most: int | None, address: Target) -> None:
    """Move the jobs of QUEUE into FILE, one CloudEvent in JSON per line, in the order of the queue.

    \b
      kestrel-gateway export emails emails.ndjson
      kestrel-gateway export emails emails.ndjson --append      after an interruption

    A job is acked after it is written and the file is synced to disk. Ctrl-C ends the command after the jobs in
    progress, up to 100. If it is killed, these jobs return to the tail of their queue a minute later. Continue with
    --append. `import` reads the file.

    Delayed jobs and dead letters are not exported. The exit code is 5 if there may be more jobs: some are leased by
    other consumers, the queue is paused, or a Kestrel server did not answer.
    """  # noqa: D301 (click wants the character itself)
    import asyncio  # noqa: PLC0415 (`--help` stays quick)

    from gateway.client.exporting import Export, ExportFile, FileError  # noqa: PLC0415

    try:
        with ExportFile(file, append=append) as target:
            if target.cut:
                options.notice(f"{file}: the last line was incomplete and is removed; its job is still on its queue")
            job = Export(address, queue, target, wait_s=wait_s, most=most)
            with contextlib.suppress(asyncio.CancelledError):  # by a second signal
                asyncio.run(job.run())
            if job.left and not job.written + job.known:
                options.notice(f"nothing is exported: {job.left}")
                sys.exit(options.AWAY)
    except FileError as exc:
        raise click.UsageError(str(exc)) from exc
    except OSError as exc:
        options.notice(f"{file}: {exc.strerror}; the last jobs are not acked; continue with --append")
        sys.exit(options.FAILED)
    except CallFailed as failed:
        options.notice(f"{failed}; continue with --append" if file.exists() else str(failed))
        sys.exit(options.exit_code(failed))
    there = counted(job.known, "was there already", "were there already")
    click.echo(f"{counted(job.written, 'job')} moved to {one_line(str(file))}" + (f", {there}" if job.known else ""))
    if job.interrupted:
        options.notice("interrupted; continue with --append")
        sys.exit(options.INTERRUPTED)
    if job.left:
        options.notice(f"there may be more jobs: {job.left}; continue with --append")
        sys.exit(options.AWAY)


@click.command("import")
@click.argument("queue", type=QueueName())
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--from-start", is_flag=True, help="ignore the progress of an earlier import of the file")
@options.calls
def import_jobs(queue: str, file: Path, *, from_start: bool, api: GatewayApi) -> None:
    """Put the CloudEvents of FILE, one per line, on QUEUE.

    After each request the command records its progress in FILE.QUEUE.progress. If it is interrupted, run the same
    command again: it continues there, and stores no job twice. Lines that the gateway does not accept are reported, and
    the exit code is 1. Expired jobs, for example, are not accepted.

    A job keeps its id, type, content and time. Its attempts start again at 1.
    """
    from gateway.client import sending  # noqa: PLC0415 (`--help` stays quick)
    from gateway.client.lines import is_done, opened, request_key, size_of  # noqa: PLC0415
    from gateway.client.progress import ProgressBar  # noqa: PLC0415

    try:
        if file.is_dir():
            raise click.UsageError(f"file: {file} is a directory")
        if str(file) == "-" or (file.exists() and not file.is_file()):
            raise click.UsageError(f"file: {file} is not a regular file; an import needs one that it can continue")
    except OSError as exc:
        raise click.UsageError(f"{file} cannot be read: {exc.strerror}") from exc
    notes = file.with_name(f"{file.name}.{queue}.progress")
    limits = api.call("GET", "/").json()["limits"]
    form = sending.RAW_EVENTS if api.is_raw(queue) else sending.EVENTS
    with opened(file) as source:
        size = size_of(source)
        begin = _new(api.url) if from_start else _noted(notes, api.url, file)
        _note(notes, begin)
        source.seek(begin["offset"])
        sender = sending.LineSender(api, queue, form, partial(request_key, "import", begin["id"]))
        lines = sending.read(source, form, number=begin["line"], offset=begin["offset"])
        batches = sending.batches(lines, min(_IMPORT_JOBS, limits["max_batch_jobs"]), limits["max_batch_bytes"])
        done = sender.done
        batch: list[sending.Line] = []
        try:
            with ProgressBar("storing", size, in_bytes=True) as bar:
                for batch in batches:
                    with interrupts.later():
                        sender.store(batch)
                        reached = {"line": done.lines, "offset": batch[-1].end, "tail": _tail(file, batch[-1].end)}
                        _note(notes, begin | reached | {"refused": begin["refused"] + done.refused})
                    bar.reached(batch[-1].end)
        except KeyboardInterrupt:
            if not is_done(batch, done, size):
                options.notice(
                    f"interrupted after line {max(done.lines, begin['line'])}; run the same command again to continue"
                )
                sys.exit(options.INTERRUPTED)
    refused_before = f", {begin['refused']} of them not accepted" if begin["refused"] else ""
    sent = counted(begin["line"], "line was sent", "lines were sent")
    before = f" (the first {sent} before{refused_before})" if begin["line"] else ""
    refused = f", {done.refused} not accepted" if done.refused else ""
    click.echo(f"{counted(done.stored, 'job')} stored on {queue}{refused}{before}")
    if done.refused or begin["refused"]:
        sys.exit(options.FAILED)


def _new(url: str) -> dict[str, Any]:
    """The notes of an import that begins. id: none of its requests is taken for one of an earlier import."""
    return {"url": url, "id": uuid.uuid4().hex, "line": 0, "offset": 0, "refused": 0, "tail": _tail(None, 0)}


def _tail(file: Path | None, offset: int) -> str:
    """The digest of the bytes before `offset`, by which a changed file is noticed; empty for standard input."""
    if file is None or not file.is_file():
        return ""
    with file.open("rb") as source:
        source.seek(max(0, offset - _TAIL_BYTES))
        return hashlib.sha256(source.read(min(offset, _TAIL_BYTES))).hexdigest()


def _noted(notes: Path, url: str, file: Path) -> dict[str, Any]:
    """How far an import has come. Raises click.UsageError if the notes are of another gateway or another file."""
    try:
        noted: dict[str, Any] = json.loads(notes.read_text())
        if noted["url"] != url:
            raise click.UsageError(f"{notes} belongs to an import to {noted['url']}; give --from-start")
        _ = noted["id"], int(noted["line"]), int(noted["offset"])
    except FileNotFoundError:
        return _new(url)
    except (KeyError, TypeError) as exc:
        raise click.UsageError(f"{notes} is not the progress of an import; delete it, or give --from-start") from exc
    except (OSError, ValueError) as exc:
        raise click.UsageError(f"{notes} cannot be read: {reason(exc)}; delete it, or give --from-start") from exc
    found = {"refused": 0, "tail": _tail(file, noted["offset"]), **noted}  # earlier versions did not note these
    if found["offset"] and found["tail"] != _tail(file, found["offset"]):
        raise click.UsageError(
            f"{file} is not the file that {notes} is about, or it was changed; give --from-start to import all of it"
        )
    return found


def _note(notes: Path, value: dict[str, Any]) -> None:
    """Replaces the notes at once, on disk. Exits with FAILED if that is not possible."""
    new = notes.with_name(f"{notes.name}.new")
    try:
        with new.open("w") as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(notes)
    except OSError as exc:
        options.notice(f"{notes} cannot be written: {exc.strerror}; the import records its progress there")
        sys.exit(options.FAILED)


COMMANDS: Final = (export_jobs, import_jobs)
