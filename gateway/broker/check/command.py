"""The commands `broker check DIR` and `broker compact DIR`, which need a stopped broker.

`check` prints the content of a data directory, and its damage; `compact` gives disk space back.

Exit codes: 0 sound or compacted, 1 damaged or cannot be examined (one line says why), 2 wrong usage.
"""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

import click

from gateway.broker.check.compact import compact
from gateway.broker.check.examine import QueueReport, Report, examine, locked
from gateway.broker.check.repair import repair
from gateway.broker.storage.reader import DatabaseError
from gateway.common.counted import counted
from gateway.common.flags import HELP
from gateway.common.key_forms import KeyForm, key_form
from gateway.common.one_line import one_line
from gateway.common.standard_files import error_line

_SHOWN_DAMAGES = 10
_BAR_WIDTH = 30
_EVERY_S = 0.2  # between two drawings of the progress bar
_ADVICE = """\
The broker delivers sound jobs and never delivers damaged ones. What to do:
1. Copy the directory, and find out what is wrong with the disk or the memory.
2. Restore broker.sqlite from a backup, or make a sound file of what can be read:
   kestrel-gateway broker check --repair {directory}"""


@click.command("check", context_settings=HELP)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--repair", "repairs", is_flag=True, help="make a sound file of what can be read; keep the damaged one")
@click.option("--quiet", is_flag=True, help="show no progress bar")
def command(directory: Path, *, repairs: bool, quiet: bool) -> None:
    """Examine the broker's data directory DIR. The broker must be stopped."""
    try:
        with locked(directory) as path:
            report = examine(path, _Bar("checking", quiet=quiet))
            _print(report)
            if report.is_sound or not repairs:
                _print_advice(report, directory)
                sys.exit(0 if report.is_sound else 1)
            kept = repair(path, _Bar("repairing", quiet=quiet))
            again = examine(path, _Bar("checking", quiet=quiet))
            click.echo(
                f"repaired: {counted(_total(again), 'job is', 'jobs are', form=',')} kept. The damaged file is "
                f"{one_line(str(kept))}"
            )
            sys.exit(0 if again.is_sound else 1)
    except DatabaseError as exc:
        error_line(f"kestrel-gateway broker check: {exc}")
        sys.exit(1)


@click.command("compact", context_settings=HELP)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
def compact_command(directory: Path) -> None:
    """Give back the disk space of jobs that were removed from the data directory DIR. The broker must be stopped.

    The file keeps the space of removed jobs for new ones. Compacting rewrites the jobs that are left, and needs twice
    as much free space as they take.
    """
    try:
        with locked(directory) as path:
            before, after = compact(path)
            sizes = f"{counted(before, 'byte', form=',')} before, {counted(after, 'byte', form=',')} now"
            click.echo(f"{one_line(str(path))}: {sizes}")
    except DatabaseError as exc:
        error_line(f"kestrel-gateway broker compact: {exc}")
        sys.exit(1)


def _print(report: Report) -> None:
    log = f", {counted(report.frames, 'frame')} in its log" if report.frames else ""
    path = one_line(str(report.path))
    click.echo(f"{path}: format {report.format}, {counted(report.size, 'byte', form=',')}{log}")
    if report.frames_lost:
        click.echo(
            f"the log is damaged: {report.frames_lost} of its frames cannot be read, and what was committed in them is "
            "lost: jobs may be missing, and jobs that were removed may be back"
        )
    if report.queues:
        width = max(len("queue"), *(len(_name(queue)) for queue in report.queues))
        click.echo(f"{'queue':{width}} {'jobs':>12} {'bytes':>16} {'damaged':>9} {'missing':>9} {'no checksum':>12}")
        for queue in report.queues:
            click.echo(
                f"{_name(queue):{width}} {queue.jobs:12,} {queue.bytes:16,} {queue.damaged:9,} {queue.missing:9,} "
                f"{queue.unchecked:12,}"
            )
    for queue in report.queues:
        _print_damages(queue)
    for error in report.errors:
        click.echo(error)


def _print_damages(queue: QueueReport) -> None:
    for damage in queue.damages[:_SHOWN_DAMAGES]:
        click.echo(f"{_name(queue)}: {damage}")
    if queue.damaged > _SHOWN_DAMAGES:
        click.echo(f"{_name(queue)}: {queue.damaged - _SHOWN_DAMAGES:,} more")
    if queue.missing:
        click.echo(
            f"{_name(queue)}: {counted(queue.missing, 'job that was', 'jobs that were', form=',')} counted "
            "cannot be found"
        )
    elif not queue.damaged and not queue.is_sound:
        counters = f"{counted(queue.counted, 'job', form=',')} and {counted(queue.counted_bytes, 'byte', form=',')}"
        click.echo(f"{_name(queue)}: the counters say {counters}; they are corrected when the jobs are read")


def _print_advice(report: Report, directory: Path) -> None:
    if report.is_sound:
        click.echo(f"sound: {_content(report)}")
        return
    damaged = sum(queue.damaged for queue in report.queues)
    missing = sum(queue.missing for queue in report.queues)
    click.echo(
        f"DAMAGED: {counted(damaged, 'job or range of jobs', 'jobs or ranges of jobs', form=',')} cannot be delivered, "
        f"{counted(missing, 'job is', 'jobs are', form=',')} missing, "
        f"{counted(len(report.errors), 'other error', form=',')}; "
        f"{counted(_total(report), 'job is', 'jobs are', form=',')} sound"
    )
    click.echo(_ADVICE.format(directory=shlex.quote(str(directory))))


def _content(report: Report) -> str:
    """How many queues and jobs there are for users, who know neither internal queues nor those of dead letters."""
    queues = 0
    items = dict.fromkeys(KeyForm, 0)
    for queue in report.queues:
        form = key_form(queue.name)
        queues += form is KeyForm.JOBS
        items[form] += queue.jobs
    parts = [counted(queues, "queue", form=","), counted(items[KeyForm.JOBS], "job", form=",")]
    for form, name in ((KeyForm.DEAD_LETTERS, "dead letter"), (KeyForm.DELAYED_JOBS, "delayed job")):
        if items[form]:
            parts.append(counted(items[form], name, form=","))
    return ", ".join(parts)


def _total(report: Report) -> int:
    return sum(queue.jobs for queue in report.queues)


def _name(queue: QueueReport) -> str:
    return one_line(queue.name.decode("utf-8", "backslashreplace"))


class _Bar:
    """A progress bar on standard error, if that is a terminal; otherwise a line every ten seconds."""

    def __init__(self, what: str, *, quiet: bool) -> None:
        self._what = what
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._began_s = self._shown_s = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now_s = time.monotonic()
        every_s = _EVERY_S if self._terminal else 10.0
        if self._quiet or (now_s - self._shown_s < every_s and not (self._terminal and done == total)):
            return
        self._shown_s = now_s
        filled = min(_BAR_WIDTH * done // max(total, 1), _BAR_WIDTH)
        text = (
            f"{self._what} [{'#' * filled}{'-' * (_BAR_WIDTH - filled)}] {done:,} of {counted(total, 'job', form=',')}"
        )
        text += f", {now_s - self._began_s:.0f} s"
        click.echo(f"\r{text}\x1b[K" if self._terminal else text, err=True, nl=not self._terminal or done == total)


COMMANDS = {"check": command, "compact": compact_command}


def main(name: str, arguments: list[str], prog_name: str) -> None:
    """Runs the command of that name; wrong usage is a click exception."""
    COMMANDS[name].main(arguments, prog_name=f"{prog_name} {name}", standalone_mode=False)
