"""The commands `import-journal` and `forward`, which move jobs from an old Kestrel to another server."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from gateway.client import options
from gateway.common.flags import Seconds
from gateway.settings import SettingsError

if TYPE_CHECKING:
    from gateway.kestrel.address import Address
    from gateway.migration.destination import Destination
    from gateway.migration.journal_files import JournalDirectory
    from gateway.migration.queue_names import NewNames
    from gateway.migration.report import JournalSummary

_ONLY: Final = click.option(
    "--queue", "only", multiple=True, help="only these queues; * and ? are wildcards (repeatable) [default: all]"
)
_RENAME: Final = click.option(
    "--rename",
    "renamed",
    multiple=True,
    metavar="OLD=NEW",
    help="new name of a queue, its children and its dead letters (repeatable)",
)
_PREFIX: Final = click.option(
    "--prefix", default="", help="prefix of every name without --rename, such as acme__ for the queues of tenant acme"
)


def _names(only: tuple[str, ...], renamed: tuple[str, ...], prefix: str) -> NewNames:
    from gateway.migration.queue_names import NewNames, is_kestrel_name  # noqa: PLC0415 (`--help` stays quick)

    found = {}
    for each in renamed:
        old, equals, new = each.partition("=")
        if not (old and equals and is_kestrel_name(new)):
            raise click.UsageError(f"rename: {each!r} is not OLD=NEW, where NEW is the name of a queue")
        found[old] = new
    if prefix and not is_kestrel_name(prefix):
        raise click.UsageError(f"prefix: {prefix!r} cannot be a part of the name of a queue")
    return NewNames(only, found, prefix)


def _address(text: str, option: str) -> Address:
    from gateway.kestrel.address import parse_address  # noqa: PLC0415

    try:
        return parse_address(text)
    except SettingsError as exc:
        raise click.UsageError(f"{option}: {str(exc).removeprefix('kestrel: ')}") from exc


@click.command("import-journal")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="data directory of the embedded broker to write to")
@click.option(
    "--broker-config",
    type=click.Path(path_type=Path),
    help="configuration file of the broker, as for `serve`; only with --data",
)
@click.option("--to", "to", metavar="HOST:PORT", help="server to write to, instead of --data")
@click.option("--dry-run", is_flag=True, help="only read the journals and print what they hold")
@_ONLY
@_RENAME
@_PREFIX
@click.option("--skip-damaged", is_flag=True, help="import what can be read of damaged journals")
@click.option("--notes", type=click.Path(path_type=Path), help="file that records the progress [default DIR.progress]")
@click.option("--from-start", is_flag=True, help="ignore the progress of an earlier import")
@click.option("--json", "as_json", is_flag=True, help="print one line of JSON for each queue")
@options.interruptible
def import_journal(
    directory: Path,
    *,
    data: Path | None,
    broker_config: Path | None,
    to: str | None,
    dry_run: bool,
    only: tuple[str, ...],
    renamed: tuple[str, ...],
    prefix: str,
    skip_damaged: bool,
    notes: Path | None,
    from_start: bool,
    as_json: bool,
) -> None:
    """Import the journals of a Kestrel server that is stopped, from its queue_path.

    \b
      kestrel-gateway import-journal /var/spool/kestrel --dry-run
      kestrel-gateway import-journal /var/spool/kestrel --data /var/lib/kestrel-gateway
      kestrel-gateway import-journal /var/spool/kestrel --to 10.0.0.7:22133 --queue 'emails*'

    Rotated and packed files are read as Kestrel reads them. Jobs of open transactions are at the head of their queue.
    Jobs that have expired are left out. The journals are not changed.

    Ctrl-C ends the command after the jobs in progress; run it again to continue. If the command is killed, at most 500
    jobs are stored twice. A job counts as stored when the destination has confirmed it. No gateway or broker may use
    the directory of --data during the import.

    A torn operation at the end of a queue's last file is reported and left out, as Kestrel does. If a file is damaged
    elsewhere, nothing is imported without --skip-damaged. The exit code is 0 if everything is imported, 1 if something
    is damaged or was refused, 3 if there are no journals, or no queue for a --queue or --rename, and 5 if the
    destination is unreachable or full: the same command may succeed later.
    """  # noqa: D301 (click wants the character itself)
    with _interruptions("interrupted" if dry_run else "interrupted; run the same command again to continue"):
        from gateway.migration import report  # noqa: PLC0415
        from gateway.migration.importing import ImportStopped, notes_path  # noqa: PLC0415
        from gateway.migration.journal_files import JournalsError, read_directory  # noqa: PLC0415

        if (data is not None) + (to is not None) + dry_run != 1:
            raise click.UsageError("give exactly one of --data DIR, --to HOST:PORT and --dry-run")
        if data is None:
            options.refuse_unused("without --data", "broker_config")
        if dry_run:
            options.refuse_unused("with --dry-run", "skip_damaged", "notes", "from_start")
        address = None if to is None else _address(to, "to")
        names = _names(only, renamed, prefix)
        try:
            notes = notes_path(directory, data, notes)
        except ValueError as exc:
            raise click.UsageError(str(exc)) from exc
        try:
            journals = read_directory(directory)
            if not journals.queues:
                options.notice(f"{directory} has no journals; give the queue_path of the Kestrel server")
                sys.exit(options.NOTHING)
            if unused := names.unused(journals.queues):
                options.notice(f"{directory} has no queue for {', '.join(unused)}; nothing is imported")
                sys.exit(options.NOTHING)
            summary = report.examine(journals, names)
            for line in summary.notices:
                options.notice(line)
            if dry_run:
                summary.show(as_json=as_json)
                sys.exit(options.FAILED if summary.damaged else 0)
            if summary.damaged and not skip_damaged:
                raise ImportStopped(
                    "the journals are damaged; give --skip-damaged to import what can be read", retryable=False
                )
            with _destination(data, broker_config, address) as destination:
                _import(journals, names, destination, notes, summary, from_start=from_start, as_json=as_json)
        except (JournalsError, OSError) as exc:
            options.notice(str(exc))
            sys.exit(options.FAILED)
        except ImportStopped as stopped:
            options.notice(str(stopped) + ("; run the same command again to continue" if stopped.retryable else ""))
            sys.exit(options.AWAY if stopped.retryable else options.FAILED)
        sys.exit(options.FAILED if summary.damaged else 0)


@contextlib.contextmanager
def _interruptions(notice: str) -> Iterator[None]:
    """A signal in the block ends the command with this line, from the first import on."""
    try:
        yield
    except KeyboardInterrupt:
        options.notice(notice)
        sys.exit(options.INTERRUPTED)


@contextlib.contextmanager
def _destination(data: Path | None, broker_config: Path | None, address: Address | None) -> Iterator[Destination]:
    from gateway.migration.data_directory import serving  # noqa: PLC0415
    from gateway.migration.destination import KestrelDestination  # noqa: PLC0415
    from gateway.migration.importing import ImportStopped  # noqa: PLC0415
    from gateway.migration.kestrel_connection import KestrelFailed  # noqa: PLC0415

    try:
        with contextlib.ExitStack() as stack:
            if data is not None:
                address = stack.enter_context(serving(data, broker_config))
            assert address is not None
            destination = KestrelDestination(address)
            if data is not None:
                destination.name = str(data.resolve())
            stack.callback(destination.close)
            yield destination
    except KestrelFailed as failed:
        raise ImportStopped(str(failed), retryable=failed.retryable) from failed


def _import(
    journals: JournalDirectory,
    names: NewNames,
    destination: Destination,
    notes: Path,
    summary: JournalSummary,
    *,
    from_start: bool,
    as_json: bool,
) -> None:
    from gateway.client.progress import ProgressBar  # noqa: PLC0415
    from gateway.migration import importing  # noqa: PLC0415
    from gateway.migration.replay import replay  # noqa: PLC0415

    new_names = {queue: names.new(queue) for queue in names.chosen(journals.queues)}
    source = importing.identity(journals, destination.name, new_names)
    noted = importing.ImportNotes.open(notes, source, from_start=from_start)
    noted.save()
    imported = {}
    with ProgressBar("importing", summary.items) as bar:
        job = importing.QueueImport(destination, noted, bar.reached)
        for queue, name in new_names.items():
            imported[queue] = job.store(queue, name, replay(journals.queues[queue]))
    if changed := importing.grown(journals):
        raise importing.ImportStopped(
            f"{', '.join(changed)} changed during the import: a Kestrel server writes to these journals; stop it, and "
            "import again to an empty destination with --from-start",
            retryable=False,
        )
    summary.show_imported(imported, as_json=as_json)


@click.command()
@click.option("--from", "source", metavar="HOST:PORT", required=True, help="the server to take the jobs from")
@click.option(
    "--to",
    "to",
    metavar="URL|HOST:PORT",
    required=True,
    help="a gateway (URL), or a server that speaks memcache (HOST:PORT)",
)
@_ONLY
@_RENAME
@_PREFIX
@click.option("--follow", is_flag=True, help="do not end; also move jobs that are enqueued later")
@click.option(
    "--retry",
    "retry_s",
    type=Seconds(),
    help="how long to try again while the source is unreachable, or the destination is unreachable or full "
    "[default 60; with --follow: no limit]",
)
@click.option("--key", help="key of the gateway; other users of this machine can see a flag")
@click.option("--key-file", type=click.Path(path_type=Path), help="file that contains only the key")
@click.option("--json", "as_json", is_flag=True, help="print one line of JSON for each queue")
@options.interruptible
def forward(
    source: str,
    to: str,
    *,
    only: tuple[str, ...],
    renamed: tuple[str, ...],
    prefix: str,
    follow: bool,
    retry_s: float | None,
    key: str | None,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Move the jobs of a Kestrel server to another server or to a gateway.

    \b
      kestrel-gateway forward --from old:22133 --to new:22133
      kestrel-gateway forward --from old:22133 --to https://jobs.example.org --queue emails --follow
      kestrel-gateway forward --from old:22133 --to new:22133 --prefix acme__ --rename mail=emails

    A job is removed from the old server after the destination has stored it. Ctrl-C ends the command after the jobs in
    progress; run it again to move the rest. If the command is killed, up to 100 jobs of a queue are stored twice and
    lose their order. Children and dead letters are queues of their own: a server takes them under their names, a
    gateway needs another name for them (--rename).

    The command ends when the queues have no jobs. The exit code is 1 if the destination does not accept a queue; the
    others are moved. It is 3 if the server has no queue for a --queue or --rename; then nothing is moved. It is 4 if
    the gateway does not accept the key, or if the key does not allow a queue. It is 5 if other clients have open reads
    on the old server, if the source is unreachable, or if the destination is unreachable or full: run the command
    again.
    """  # noqa: D301 (click wants the character itself)
    from gateway.client.progress import ProgressBar  # noqa: PLC0415
    from gateway.migration import report  # noqa: PLC0415
    from gateway.migration.moving import MoveStopped, QueueMove, UnknownQueues  # noqa: PLC0415

    destination = _moved_to(to, key, key_file)
    if retry_s is None and not follow:
        retry_s = 60.0
    code = 0
    with contextlib.closing(destination), ProgressBar("moving", None) as bar:
        move = QueueMove(
            _address(source, "from"),
            destination,
            _names(only, renamed, prefix),
            follow=follow,
            retry_s=retry_s,
            notice=options.notice,
            reached=bar.reached,
        )
        try:
            move.run()
        except UnknownQueues as unknown:
            options.notice(f"{unknown}; nothing is moved")
            sys.exit(options.NOTHING)
        except MoveStopped as stopped:
            options.notice(str(stopped))
            code = options.NOT_ALLOWED if stopped.not_allowed else options.FAILED
            code = options.AWAY if stopped.retryable else code
        except KeyboardInterrupt:
            options.notice("interrupted; run the same command again to move the rest")
            code = options.INTERRUPTED
        finally:
            report.show_moved(move.counts, as_json=as_json)
    if move.counts.left_out:
        code = code or (options.NOT_ALLOWED if move.counts.not_allowed else options.FAILED)
    if not code and move.open_reads:
        held = ", ".join(f"{count} of {queue}" for queue, count in move.open_reads.items())
        options.notice(f"other clients have open reads: {held}; run the command again when these reads have ended")
        code = options.AWAY
    sys.exit(code)


def _moved_to(to: str, key: str | None, key_file: Path | None) -> Destination:
    from gateway.client import target  # noqa: PLC0415
    from gateway.migration.destination import GatewayDestination, KestrelDestination  # noqa: PLC0415

    if not to.startswith(("http://", "https://")):
        if key or key_file:
            raise click.UsageError("key: only a gateway has keys; a Kestrel server has none")
        return KestrelDestination(_address(to, "to"))
    try:
        return GatewayDestination(target.find(url=to.rstrip("/"), key=key, key_file=key_file))
    except target.TargetError as exc:
        raise click.UsageError(str(exc)) from exc


COMMANDS: Final = (import_journal, forward)
