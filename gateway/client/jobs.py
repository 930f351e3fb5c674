"""The commands for jobs: `put`, `next`, `peek`, and `ack`, `nack`, `reject`, `extend` for a lease that `next` gave."""

from __future__ import annotations

import json
import sys
import time
import uuid
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from gateway.client import options
from gateway.client.failures import CallFailed
from gateway.common import standard_files
from gateway.common.flags import HeaderText, QueueName, Seconds, WholeNumber

if TYPE_CHECKING:
    import httpx

    from gateway.client.api import GatewayApi

_STDIN: Final = Path("-")
_SHORT_WAIT_S: Final = 20.0
"""Every gateway allows such a wait by default, so that its limits need not be read. Source: openapi.yaml, `timeout`."""
_TEXT_TYPE: Final = "text/plain; charset=utf-8"


@click.command()
@click.argument("queue", type=QueueName())
@click.argument("text", required=False)
@click.option("--file", "-f", type=click.Path(path_type=Path), help="file with the job; - is standard input")
@click.option("--lines", is_flag=True, help="each line of the file is a job, in JSON (NDJSON)")
@click.option(
    "--type", "-t", "content_type", type=HeaderText(), help="content type of the job [default: by its content]"
)
@click.option("--ttl", type=Seconds(), help="seconds after which the job is dropped if no consumer has taken it")
@click.option("--delay", type=Seconds(), help="seconds until consumers can get the job")
@click.option("--at", help="when consumers can get the job, such as 2026-01-31T12:00:00Z, instead of --delay")
@click.option("--ordering-key", type=HeaderText(), help="jobs with the same key are delivered in their order")
@click.option(
    "--idempotency-key",
    type=HeaderText(),
    help="the same command with the same key stores the job, or the jobs of the file, once",
)
@click.option("--skip", type=WholeNumber(), default=0, help="with --lines: skip the first N lines")
@click.option("--json", "as_json", is_flag=True, help="print the gateway's receipt instead of the id")
@options.calls
def put(
    queue: str,
    text: str | None,
    file: Path | None,
    *,
    lines: bool,
    content_type: str | None,
    ttl: float | None,
    delay: float | None,
    at: str | None,
    ordering_key: str | None,
    idempotency_key: str | None,
    skip: int,
    as_json: bool,
    api: GatewayApi,
) -> None:
    """Put a job on QUEUE and print its id. The job is TEXT, a file, or what comes from standard input.

    \b
      kestrel-gateway put emails '{"to": "ada@example.org"}'
      kestrel-gateway put images --file photo.png --type image/png
      generate | kestrel-gateway put emails --lines

    A job without --type is JSON if it can be read as JSON. Otherwise TEXT is text, and a file is bytes. The exit code
    is 0 only after the job is stored on disk. A repeated attempt stores it once: each request has an idempotency key.

    With --lines every line is one job. Lines that the gateway does not accept are reported, the others are stored, and
    the exit code is 1. Ctrl-C ends the command after the jobs in progress. Then, and if the gateway becomes
    unreachable, the last message names the --skip to continue with. With an --idempotency-key, run the same command
    again, without --skip.
    """  # noqa: D301 (click wants the character itself)
    from gateway.client.lines import put_lines  # noqa: PLC0415 (`--help` stays quick)

    if text is not None and file is not None:
        raise click.UsageError(f"the job is given twice, as TEXT and as --file {file}; give only one of them")
    if not lines:
        options.refuse_unused("without --lines", "skip")
    given = (("ttl", _in_query(ttl)), ("delay", _in_query(delay)), ("at", at))
    chosen = {name: value for name, value in given if value is not None}
    headers = {"Ordering-Key": ordering_key} if ordering_key else {}
    if lines:
        if text is not None or content_type or as_json:
            raise click.UsageError("--lines reads jobs in JSON from a file; leave out TEXT, --type and --json")
        key = idempotency_key or str(uuid.uuid4())
        sys.exit(put_lines(api, queue, file or _STDIN, skip=skip, key=key, params=chosen, headers=headers))
    if text is not None:
        body = text.encode("utf-8", "surrogateescape")
        content_type = content_type or ("application/json" if _is_json(text) else _TEXT_TYPE)
    else:
        body = _read(file or _STDIN)
        if not body and file is None:
            raise click.UsageError("standard input is empty; for a job without content give an empty TEXT: ''")
    headers["Idempotency-Key"] = idempotency_key or str(uuid.uuid4())
    if content_type:
        headers["Content-Type"] = content_type
    receipt = api.call("POST", f"{_path(queue)}/jobs", content=body, headers=headers, params=chosen).json()
    if as_json:
        options.show_json(receipt)
    elif "id" in receipt:
        click.echo(receipt["id"])
    else:  # an event batch or NDJSON by --type: one result for each job
        sys.exit(_report(receipt))


@click.command("next")
@click.argument("queue", type=QueueName())
@click.option("--wait", "wait_s", type=Seconds(), default=20.0, help="how long to wait for a job [default 20]")
@click.option("--lease", "lease_s", type=Seconds(), help="length of the lease in seconds [default: the queue's]")
@click.option("--ack", is_flag=True, help="ack the job after it is written")
@click.option("--raw", is_flag=True, help="print the job's own bytes instead of the JSON object; needs --ack")
@options.calls
def next_job(queue: str, *, wait_s: float, lease_s: float | None, ack: bool, raw: bool, api: GatewayApi) -> None:
    """Take the next job of QUEUE and print it as one line of JSON, with its lease.

    \b
      kestrel-gateway next emails                      take a job; settle it with ack, nack or reject
      kestrel-gateway next emails --ack --raw >job     take a job and ack it

    The lease is at .lease.id. It must be settled before it ends; otherwise the next consumer gets the job. With --ack
    the job is acked after it is written. A job that cannot be written goes back to the head of its queue, and the exit
    code is 1. The exit code is 3 if no job came.
    """  # noqa: D301 (click wants the character itself)
    if raw and not ack:
        raise click.UsageError("--raw prints no lease, so the job could not be settled; also give --ack")
    if standard_files.is_closed():
        raise click.UsageError("standard output is closed, so a job could not be printed; no job was taken")
    params = {} if lease_s is None else {"lease_seconds": f"{lease_s:.15g}"}
    if raw:
        params["format"] = "raw"
    answer = _polled(api, f"{_path(queue)}/next", params, wait_s)
    if answer.status_code == 204:
        if "queue-paused" in answer.headers:
            options.notice(f"{queue} is paused")
        if api.coverage:
            return  # a server that did not answer may have a job
        sys.exit(options.NOTHING)
    api.coverage = ""
    lease = f"/leases/{answer.headers['lease-id']}"
    try:
        sys.stdout.buffer.write(answer.content if raw else answer.content + b"\n")
        sys.stdout.flush()
    except KeyboardInterrupt:  # nobody knows the lease, and nobody has begun the job
        _give_back(api, lease)
        raise
    except OSError as exc:
        standard_files.discard_output()
        _give_back(api, lease)
        options.notice(f"standard output: {exc.strerror}; the job is back on its queue")
        sys.exit(options.FAILED)
    if ack:
        api.call("POST", f"{lease}/ack")


def _give_back(api: GatewayApi, lease: str) -> None:
    """The job is at the head again, and that was no attempt."""
    api.call("POST", f"{lease}/nack", json={"position": "head", "count": False})


def _polled(api: GatewayApi, path: str, params: dict[str, str], wait_s: float) -> httpx.Response:
    """The answer with a job, or a 204 if none came.

    A wait that is longer than the gateway's longest is several polls.
    """
    longest_s = wait_s
    if wait_s > _SHORT_WAIT_S:
        longest_s = api.call("GET", "/").json()["limits"]["max_timeout_seconds"]
    ends_s = time.monotonic() + wait_s
    left_s = wait_s
    while True:
        this_s = min(left_s, longest_s)
        answer = api.call("GET", path, params={**params, "timeout": f"{this_s:.3f}"}, wait_s=this_s)
        left_s = ends_s - time.monotonic()
        if answer.status_code != 204 or left_s <= 0 or this_s < longest_s:
            return answer


@click.command()
@click.argument("queue", type=QueueName())
@click.option("--raw", is_flag=True, help="print the job's own bytes instead of the JSON object")
@options.calls
def peek(queue: str, *, raw: bool, api: GatewayApi) -> None:
    """Print the job at the head of QUEUE without taking it.

    The exit code is 3 if the queue has no job or does not exist. A consumer may take the job at any moment.
    """
    answer = api.call("GET", f"{_path(queue)}/peek", params={"format": "raw"} if raw else {})
    api.coverage = ""
    sys.stdout.buffer.write(answer.content if raw else answer.content + b"\n")


@click.command()
@click.argument("lease")
@options.calls
def ack(lease: str, *, api: GatewayApi) -> None:
    """Report that the work of LEASE is done. The job is gone for good."""
    _settle(api, lease, "ack", None)


@click.command()
@click.argument("lease")
@click.option("--head", is_flag=True, help="the job goes before all others [default: as the queue's policy says]")
@click.option("--delay", type=Seconds(), help="seconds until the job is back on its queue")
@click.option("--reason", help="what went wrong; stored with the job")
@options.calls
def nack(lease: str, *, head: bool, delay: float | None, reason: str | None, api: GatewayApi) -> None:
    """Give the job of LEASE back to its queue for another attempt."""
    if head and delay:
        raise click.UsageError("--head means at once, and --delay later; give only one of them")
    _settle(api, lease, "nack", {"position": "head" if head else None, "delay": _typed(delay), "reason": reason})


@click.command()
@click.argument("lease")
@click.option("--reason", help="why the job cannot be done; stored with the dead letter")
@options.calls
def reject(lease: str, *, reason: str | None, api: GatewayApi) -> None:
    """Move the job of LEASE, which cannot be done, to the dead letters of its queue."""
    _settle(api, lease, "reject", {"reason": reason})


@click.command(context_settings={"ignore_unknown_options": True})  # -1 is a number that is not allowed
@click.argument("lease")
@click.argument("seconds", type=Seconds())
@options.calls
def extend(lease: str, seconds: float, *, api: GatewayApi) -> None:
    """Make LEASE end SECONDS from now, and print that time."""
    answer = api.call("POST", f"{_lease_path(lease)}/extend", json={"lease_seconds": _typed(seconds)})
    click.echo(answer.json()["expires_at"])


def _typed(seconds: float | None) -> float | None:
    """Whole seconds as an int, so that a message of the gateway shows what was typed."""
    return int(seconds) if seconds is not None and seconds.is_integer() else seconds


def _in_query(seconds: float | None) -> str | None:
    """As `_typed`, without an exponent: the gateway reads digits and a fraction."""
    return None if seconds is None else format(Decimal(repr(_typed(seconds))), "f")


def _settle(api: GatewayApi, lease: str, how: str, body: dict[str, Any] | None) -> None:
    """Settles the lease. Prints where the job is if that is not where it was to go."""
    answer = api.call("POST", f"{_lease_path(lease)}/{how}", json=body)
    if answer.content:
        options.show_json(answer.json())


def _lease_path(lease: str) -> str:
    if not lease.replace("-", "").replace("_", "").isalnum() or not lease.isascii():
        raise CallFailed(
            "lease-not-found",
            f"{lease!r} is not the id of a lease, which `next` prints as .lease.id",
            status=404,
            retryable=False,
        )
    return f"/leases/{lease}"


def _path(queue: str) -> str:
    from gateway.client.api import queue_path  # noqa: PLC0415 (`--help` stays quick)

    return queue_path(queue)


def _report(receipt: dict[str, Any]) -> int:
    """Prints the id of each stored job, and what is wrong with the others. Returns the exit code."""
    status = 0
    for number, result in enumerate(receipt["results"], 1):
        if "code" in result:
            options.notice(f"job {number}: {result['code']}: {result['detail']}")
            status = options.FAILED
        else:
            click.echo(result["id"])
    return status


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")  # json reads NaN and Infinity


def _read(file: Path) -> bytes:
    if file == _STDIN:
        if sys.stdin.isatty():
            options.notice("reading the job from the terminal; end it with Ctrl-D")
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as exc:
        raise click.UsageError(f"{file} cannot be read: {exc.strerror}") from exc


COMMANDS: Final = (put, next_job, peek, ack, nack, reject, extend)
