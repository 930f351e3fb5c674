"""The command `work`. It turns its flags into a worker, and says what runs it."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from gateway.client import options
from gateway.client.target import Target, is_url
from gateway.common.counted import counted
from gateway.common.flags import QueueName, Seconds, WholeNumber
from gateway.common.net import reason
from gateway.work.own_queue import own_queue
from gateway.work.verdict import LONGEST_DELAY_S

if TYPE_CHECKING:
    from gateway.work.worker import Runner

SECRET_VARIABLE: Final = "KESTREL_GATEWAY_WEBHOOK_SECRET"  # noqa: S105 (its name)
_LARGEST_BATCH: Final = 100
"""Source: openapi.yaml, nextJob."""
_SHORTEST_WAIT_S: Final = 1.0
"""Shorter polls would be a busy loop."""
_DEFAULT_WAIT_S: Final = 20.0
"""Every gateway allows it by default. Source: openapi.yaml, `timeout`."""
_EXEC: Final = "--exec"
_URL: Final = re.compile(r"https?://[^/?#\s\x00-\x1f\x7f]+(/[^#\s\x00-\x1f\x7f]*)?")
_WITHOUT_USER: Final = re.compile("//[^/]*@")


class WorkCommand(click.Command):
    """Everything behind `--exec` is the command, whatever it begins with."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if _EXEC in args:
            place = args.index(_EXEC)
            command = args[place + 1 :]
            ctx.meta[_EXEC] = command[1:] if command[:1] == ["--"] else command
            args = args[:place]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "--exec COMMAND... | --to URL"]


def _statuses(_ctx: click.Context, _option: click.Parameter, value: str | None) -> frozenset[int]:
    found = (value or "").replace(",", " ").split()
    for each in found:
        if not re.fullmatch("[45][0-9][0-9]", each):
            raise click.BadParameter(f"{each!r} is not a status from 400 to 599")
    return frozenset(map(int, found))


@click.command(cls=WorkCommand)
@click.argument("queues", metavar="[QUEUE]", nargs=-1, type=QueueName())
@click.option(
    "--queue",
    "-q",
    "more",
    multiple=True,
    type=QueueName(),
    help="queue to take jobs from; of several, the first that has a job (repeatable)",
)
@click.option("--exec", "_exec", metavar="COMMAND...", help="the command, as the last option; no shell is used")
@click.option("--to", "endpoint", metavar="URL", help="the endpoint to which each job is posted")
@click.option("--concurrency", "-c", type=WholeNumber(), default=1, help="jobs at the same time [default 1]")
@click.option(
    "--batch",
    type=WholeNumber(),
    default=1,
    help="maximum number of jobs in one run, at most 100; one result decides for all of them [default 1]",
)
@click.option(
    "--timeout", "timeout_s", type=Seconds(), default=600.0, help="time limit of one job; 0: no limit [default 600]"
)
@click.option(
    "--kill-after",
    "kill_after_s",
    type=Seconds(),
    default=10.0,
    help="time from SIGTERM to SIGKILL of a command [default 10]",
)
@click.option(
    "--retry-delay", "first_s", type=Seconds(), default=1.0, help="delay after the first failed attempt [default 1]"
)
@click.option("--max-retry-delay", "longest_s", type=Seconds(), default=300.0, help="longest such delay [default 300]")
@click.option(
    "--lease", "lease_s", type=Seconds(), default=60.0, help="length of a lease; the worker extends it [default 60]"
)
@click.option(
    "--wait", "wait_s", type=Seconds(), default=_DEFAULT_WAIT_S, help="length of one poll for a job [default 20]"
)
@click.option("--max-jobs", type=WholeNumber(), default=0, help="end after N jobs; 0: no limit")
@click.option(
    "--max-time", "max_time_s", type=Seconds(), default=0.0, help="take no job after this time, and end; 0: no limit"
)
@click.option("--max-memory", type=WholeNumber(), default=0, help="end after a job if the worker uses N MiB or more")
@click.option(
    "--reject-on",
    callback=_statuses,
    help="statuses, such as 400,422, that make the job a dead letter, in addition to 410",
)
@click.option(
    "--secret-file",
    type=click.Path(path_type=Path),
    help=f"file with the secrets that sign requests, one per line [variable {SECRET_VARIABLE}]",
)
@click.option("--debug", is_flag=True, help="log every step as it happens")
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", help="format of the log [default text]"
)
@options.where
@click.pass_context
def work(
    ctx: click.Context, /, *, address: Target, queues: tuple[str, ...], more: tuple[str, ...], **given: Any
) -> None:
    """Take the jobs of QUEUE and run a command, or call an endpoint, for each of them.

    \b
      kestrel-gateway work emails --exec php artisan send-mail
      kestrel-gateway work emails --concurrency 4 --timeout 60 --exec sh -c 'jq .to | xargs notify'
      kestrel-gateway work -q urgent -q emails --to http://127.0.0.1:9000/jobs
      kestrel-gateway work events --batch 100 --exec ./load-into-database

    The command gets the job on its standard input, and its attributes as KESTREL_JOB_ID, KESTREL_JOB_QUEUE,
    KESTREL_JOB_ATTEMPT, KESTREL_JOB_CONTENT_TYPE, KESTREL_JOB_DEADLINE, TRACEPARENT and ce_NAME. Its exit status
    decides:

    \b
      0            the job is done
      65, 100      the job cannot be done: it becomes a dead letter
      126, 127     the command cannot run: the job goes back, and the worker ends with this code
      any other    the attempt failed, as after a signal: the job is retried after a growing delay

    The end of its standard error is the reason that a dead letter shows. The endpoint gets the job as the body of a
    POST. 2xx is done, 202 leaves the lease to the endpoint, 410 and --reject-on make a dead letter, and Retry-After is
    the delay of the next attempt.

    \b
      SIGTERM      finish the jobs in progress, then end with 0
                   (SIGHUP and SIGINT do the same; a second SIGINT acts as SIGQUIT)
      SIGQUIT      end the commands, give their jobs back, then end with 0
      SIGUSR2      take no further job until SIGCONT

    The worker waits for a gateway or an endpoint that is unreachable. It ends with 4 if the gateway refuses its first
    poll, and with 5 if one of them is unreachable when --max-time is over.
    """  # noqa: D301 (click wants the character itself)
    command: Sequence[str] = ctx.meta.get(_EXEC, [])
    url: str | None = given.pop("endpoint")
    given.pop("_exec")
    names = [*queues, *more]
    if not names:
        raise click.UsageError("no queue is given; give QUEUE or --queue")
    if command and not command[0]:
        raise click.UsageError("exec: the name of the command is empty; write --exec COMMAND")
    if bool(command) == bool(url):
        raise click.UsageError("give either --exec COMMAND, as the last option, or --to URL")
    if url:
        options.refuse_unused("with --to", "kill_after_s")
    else:
        options.refuse_unused("without --to", "reject_on", "secret_file")
    if url and not (_URL.fullmatch(url) and is_url(_WITHOUT_USER.sub("//", url.partition("?")[0]))):
        raise click.UsageError(f"to: {url!r} is not a URL such as http://127.0.0.1:9000/jobs")
    if given["concurrency"] < 1:
        raise click.UsageError("concurrency: 0 is below the minimum of 1")
    if not 1 <= given["batch"] <= _LARGEST_BATCH:
        raise click.UsageError(f"batch: {given['batch']} is not between 1 and {_LARGEST_BATCH}")
    if given["batch"] > 1 and len(names) > 1:
        raise click.UsageError("batch: a batch comes from one queue; give one queue, or start a worker for each")
    if given["wait_s"] < _SHORTEST_WAIT_S:
        raise click.UsageError(f"wait: {given['wait_s']:.15g} is below the minimum of {_SHORTEST_WAIT_S:.15g} second")
    if url and (queue := own_queue(url, address.url, names)):
        raise click.UsageError(
            f"to: {url} would put the jobs back on {queue}, from which they are taken; give another URL"
        )
    if not 1 <= given["lease_s"] <= 43200:
        raise click.UsageError(f"lease: {given['lease_s']:.15g} is not between 1 and 43200 seconds")
    for name in ("first_s", "longest_s"):
        if given[name] > LONGEST_DELAY_S:
            flag = "retry-delay" if name == "first_s" else "max-retry-delay"
            raise click.UsageError(f"{flag}: {given[name]:.15g} is above the maximum of {LONGEST_DELAY_S:.15g} seconds")
    if given["first_s"] > given["longest_s"]:
        raise click.UsageError(
            f"retry-delay: {given['first_s']:.15g} is above --max-retry-delay, which is {given['longest_s']:.15g}"
        )
    if given["wait_s"] > _DEFAULT_WAIT_S:
        _check_wait(address, given["wait_s"])
    import asyncio  # noqa: PLC0415 (`--help` stays quick)

    from gateway.common import logs  # noqa: PLC0415

    logs.set_up(given.pop("log_format"), "debug" if given.pop("debug") else "info", "work")
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    sys.exit(asyncio.run(_run(address, names, command, url or "", **given)))


def _check_wait(address: Target, wait_s: float) -> None:
    """Raises click.UsageError if the gateway says that it does not allow so long a poll."""
    from gateway.client.api import GatewayApi  # noqa: PLC0415 (`--help` stays quick)
    from gateway.client.failures import CallFailed  # noqa: PLC0415

    try:
        with GatewayApi(address, 0, options.notice) as api:
            longest_s = float(api.call("GET", "/").json()["limits"]["max_timeout_seconds"])
    except CallFailed:
        return  # the worker waits for an unreachable gateway, and reports what else is wrong
    if wait_s > longest_s:
        raise click.UsageError(
            f"wait: {wait_s:.15g} is above the maximum of {counted(longest_s, 'second', form='.15g')}, the gateway's "
            "--max-timeout"
        )


async def _run(
    address: Target,
    queues: Sequence[str],
    command: Sequence[str],
    url: str,
    *,
    concurrency: int,
    batch: int,
    timeout_s: float,
    kill_after_s: float,
    first_s: float,
    longest_s: float,
    lease_s: float,
    wait_s: float,
    max_jobs: int,
    max_time_s: float,
    max_memory: int,
    reject_on: frozenset[int],
    secret_file: Path | None,
) -> int:
    import asyncio  # noqa: PLC0415

    from gateway.work.command import CommandRunner  # noqa: PLC0415
    from gateway.work.control import WorkControl, WorkLimits  # noqa: PLC0415
    from gateway.work.endpoint import EndpointRunner  # noqa: PLC0415
    from gateway.work.job_lease import FailureDelay  # noqa: PLC0415
    from gateway.work.source import JobSource  # noqa: PLC0415
    from gateway.work.worker import Worker  # noqa: PLC0415

    control = WorkControl(WorkLimits(max_jobs, max_time_s, max_memory))
    control.listen(asyncio.get_running_loop())
    logging.getLogger(__name__).info("polls %s for jobs of %s", address.url, ", ".join(queues))
    runner: Runner
    if command:
        runner = CommandRunner(command, timeout_s=timeout_s, kill_after_s=kill_after_s, concurrency=concurrency)
    else:
        secrets = _secrets(secret_file)
        runner = EndpointRunner(url, timeout_s=timeout_s, reject_on=reject_on, secrets=secrets, concurrency=concurrency)
    # A slot makes two calls at a time: it extends a lease while it settles or takes.
    async with JobSource(address, queues, lease_s=lease_s, connections=2 * concurrency) as source:
        delay = FailureDelay(first_s, longest_s)
        worker = Worker(source, runner, control, wait_s=wait_s, concurrency=concurrency, batch=batch, delay=delay)
        try:
            return await worker.run()
        finally:
            await runner.close()


def _secrets(file: Path | None) -> list[bytes]:
    """The secrets of a file, or of the variable."""
    import os  # noqa: PLC0415

    from gateway.work import signature  # noqa: PLC0415

    try:
        text = file.read_text() if file is not None else os.environ.get(SECRET_VARIABLE, "")
        secrets = [signature.secret(each) for each in text.split()]
    except (OSError, UnicodeDecodeError) as exc:
        raise click.UsageError(f"secret-file: {file} cannot be read: {reason(exc)}") from exc
    except signature.SecretError as exc:
        raise click.UsageError(f"secret-file: {exc}") from exc
    if file is not None and not secrets:
        raise click.UsageError(
            f"secret-file: {file} is empty, so no request would be signed; put a secret there, or leave "
            "--secret-file out"
        )
    return secrets
