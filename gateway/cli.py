"""The command line: the group of all commands, and `serve`, `broker`, `check`, `doctor` and `keys`.

The other commands are in client/ (jobs, queues, transfer), work/, migration/ and maintenance/; `_COMMANDS` lists them.
The options of `serve` and `doctor` are made from Settings. Each command imports what it needs when it runs. A bad value
prints one line on stderr and ends with exit code 2.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NoReturn

import click
from click.core import ParameterSource

from gateway import __version__
from gateway.client import jobs as client_jobs
from gateway.client import queues as client_queues
from gateway.client import target
from gateway.client import transfer as client_transfer
from gateway.client.help_page import CommandSections
from gateway.common import standard_files
from gateway.common.flags import HELP, ListedText, Rate, Seconds, WholeNumber, usage_mistake
from gateway.config.toml_file import Mistake, MistakesError
from gateway.maintenance import variables
from gateway.maintenance.cli import backup, healthcheck
from gateway.migration import cli as migration
from gateway.settings import Settings, SettingsError, flag, variable
from gateway.work.cli import SECRET_VARIABLE, work

PROGRAM: Final = "kestrel-gateway"
# The command that runs if none is given. An image sets it, so that a compose file does not have to name a command.
COMMAND_VARIABLE: Final = "KESTREL_GATEWAY_COMMAND"


def options(command: Any) -> Any:
    """Adds one option per field of Settings to a command, in the order of the fields."""
    for field in reversed(dataclasses.fields(Settings)):
        command = _option(field)(command)
    return command


def _option(field: dataclasses.Field[Any]) -> Any:
    kind, metadata = str(field.type), field.metadata
    settings: dict[str, Any] = {"envvar": variable(field), "help": _help(field), "default": field.default}
    if kind == "bool":
        settings["is_flag"] = True
    elif kind == "int":
        settings["type"] = WholeNumber()
    elif kind == "float":
        settings["type"] = Seconds()
        if not metadata["unit"]:
            settings["metavar"] = "FRACTION"
    elif kind.startswith("tuple"):
        settings.update(type=ListedText(), multiple=True)
    elif kind.startswith("Path"):
        settings["type"] = click.Path(path_type=Path)
    elif metadata["choices"]:
        settings["type"] = click.Choice(metadata["choices"])
    return click.option(flag(field), field.name, **settings)


def _help(field: dataclasses.Field[Any]) -> str:
    notes = []
    if field.default not in (None, "", (), False):
        notes.append(f"default {default_text(field)}")
    if field.metadata["low"] is not None:
        notes.append(range_text(field))
    return str(field.metadata["help"]) + (f" [{'; '.join(notes)}]" if notes else "")


def default_text(field: dataclasses.Field[Any]) -> str:
    """A field's default in the form that people write; empty if there is no default."""
    if field.default in (None, "", ()):
        return ""
    if isinstance(field.default, bool):
        return "on" if field.default else "off"
    if isinstance(field.default, float):
        return f"{field.default:g}"
    return str(field.default)


def range_text(field: dataclasses.Field[Any]) -> str:
    """The values that a field allows; empty if there is no range."""
    metadata = field.metadata
    if metadata["choices"]:
        return " or ".join(metadata["choices"])
    if metadata["low"] is None:
        return ""
    unit = f" {metadata['unit']}" if metadata["unit"] else ""
    return f"{metadata['low']:.15g} to {metadata['high']:.15g}{unit}"


@click.group(cls=CommandSections, context_settings=HELP)
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
def cli() -> None:
    """Jobs over HTTP, with Kestrel queues or an embedded broker.

    kestrel-gateway COMMAND --help describes a command.
    """


@cli.command()
@options
@click.option("--app", hidden=True, default=None, help="MODULE:FACTORY of another application, for tests")
def serve(app: str | None, **values: Any) -> None:
    """Run the gateway, with an embedded broker or in front of Kestrel servers.

    Without --kestrel and --kestrel-file, an embedded broker stores the queues in --data.

    Every flag is also a variable: --max-job-bytes is KESTREL_GATEWAY_MAX_JOB_BYTES. Durations are in seconds.
    """
    from gateway.kestrel.discovery import members  # noqa: PLC0415 (`--help` stays quick)

    try:
        settings = Settings(**values)
        members.check(settings.kestrel, settings.kestrel_file)
    except SettingsError as exc:
        raise click.UsageError(str(exc)) from exc
    refuse_mistakes(settings.queues, settings.keys, settings.namespace, status=2)
    from gateway.config import cluster_secret  # noqa: PLC0415 (`--help` stays quick)
    from gateway.http import tls  # noqa: PLC0415 (`--help` stays quick)
    from gateway.process import supervisor  # noqa: PLC0415 (`--help` stays quick)

    try:
        tls.check(settings)
        cluster_secret.secrets_of(settings)
    except SettingsError as exc:
        raise click.UsageError(str(exc)) from exc
    sys.exit(supervisor.serve(settings, app or supervisor.APP))


@cli.command()
@click.option(
    "--queues",
    envvar="KESTREL_GATEWAY_QUEUES",
    type=click.Path(path_type=Path),
    help="TOML file with the policies of queues",
)
@click.option(
    "--keys", envvar="KESTREL_GATEWAY_KEYS", type=click.Path(path_type=Path), help="TOML file with the keys of callers"
)
@click.option("--namespace", envvar="KESTREL_GATEWAY_NAMESPACE", default="", help="namespace, as given to `serve`")
def check(queues: Path | None, keys: Path | None, namespace: str) -> None:
    """Print every mistake in the files of policies and keys. The exit code is 1 if there is a mistake."""
    if queues is None and keys is None:
        raise click.UsageError("there is nothing to check: give --queues, --keys or both")
    refuse_mistakes(queues, keys, namespace, status=1)
    click.echo("no mistakes")


def refuse_mistakes(queues: Path | None, keys: Path | None, namespace: str, *, status: int) -> None:
    """Returns if the files are valid; otherwise prints their mistakes, one per line, and exits with `status`."""
    from gateway.config.mistakes import mistakes  # noqa: PLC0415 (`--help` stays quick)

    found = mistakes(queues, keys, namespace)
    for each in found:
        standard_files.error_line(f"{PROGRAM}: {each}")
    if found:
        sys.exit(status)


@cli.command()
@options
@click.option("--json", "as_json", is_flag=True, help="print one line of JSON, with every setting")
@click.pass_context
def doctor(context: click.Context, /, *, as_json: bool, **values: Any) -> None:
    """Examine settings, files, this host and the Kestrel servers, and say what is wrong. Changes nothing.

    Give it the flags and variables of `serve`, before the start or while the gateway runs. The exit code is 0 if there
    is no error, and 1 if there is one. Warnings do not count.
    """
    from gateway.maintenance.doctor import examination, finding  # noqa: PLC0415 (`--help` stays quick)

    sources = {
        field.name: "flag" if source is ParameterSource.COMMANDLINE else variable(field)
        for field in dataclasses.fields(Settings)
        if (source := context.get_parameter_source(field.name)) is not ParameterSource.DEFAULT
    }
    used = examination.used_settings(values, sources)
    unknown = variables.warnings(os.environ, known_variables(os.environ))
    found = list(examination.examine(values, used, unknown, _file_mistakes))
    version = examination.version()
    click.echo(finding.as_json(version, found, used) if as_json else finding.as_text(version, found))
    sys.exit(0 if finding.is_sound(found) else 1)


def _file_mistakes(settings: Settings) -> list[str]:
    """Every mistake in a file that the settings name."""
    from gateway.broker.config import ConfigError, load  # noqa: PLC0415 (`--help` stays quick)
    from gateway.config import cluster_secret  # noqa: PLC0415
    from gateway.config.mistakes import mistakes  # noqa: PLC0415
    from gateway.http import tls  # noqa: PLC0415
    from gateway.kestrel.discovery import members  # noqa: PLC0415

    found = [str(each) for each in mistakes(settings.queues, settings.keys, settings.namespace)]
    checks = (
        lambda: members.check(settings.kestrel, settings.kestrel_file),
        lambda: tls.check(settings),
        lambda: cluster_secret.secrets_of(settings),
        lambda: load(settings.broker_config),
    )
    for check_one in checks:
        try:
            check_one()
        except (SettingsError, ConfigError) as exc:
            found.append(str(exc))
    return found


@cli.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def broker(arguments: tuple[str, ...]) -> None:
    """Run the embedded broker alone; `check DIR` and `compact DIR` work on its data directory."""
    from gateway.broker.__main__ import run  # noqa: PLC0415 (only when asked for)

    run(list(arguments), f"{PROGRAM} broker")


@cli.group()
def keys() -> None:
    """Manage the keys of callers. See docs/security.md."""


@keys.command("new", short_help="Print a new secret, and its table for the file of keys.")
@click.option("--name", required=True, help="name of the key in logs")
@click.option(
    "--tenant", default="", help="tenant of the key, if keys have tenants; * for a key that observes all of them"
)
@click.option(
    "--scope",
    "scopes",
    required=True,
    multiple=True,
    help="produce, consume, admin, observe or operator (repeatable)",
)
@click.option("--queue", "queues", multiple=True, help="queue that the key may use; * and ? are wildcards (repeatable)")
@click.option("--rate", type=Rate(), default=None, help="maximum number of requests a second with the key, per worker")
@click.option(
    "--burst",
    type=WholeNumber(),
    default=None,
    help="maximum number of requests at once, with --rate [default: --rate]",
)
def new_key(
    *, name: str, tenant: str, scopes: tuple[str, ...], queues: tuple[str, ...], rate: float | None, burst: int | None
) -> None:
    """Print a new secret, which is shown only once, and its table for the file of keys."""
    from gateway.config.keys import new  # noqa: PLC0415

    try:
        secret, table = new(name, tenant, scopes, queues, rate=rate, burst=burst)
    except MistakesError as exc:
        raise click.UsageError("; ".join(map(_of_flag, exc.mistakes))) from exc
    click.echo(f"{secret}\n\n{table}", nl=False)


def _of_flag(mistake: Mistake) -> str:
    """The mistake in the table of a new key, in the words of the command's flags."""
    text = re.sub(r"^keys\[1\]\.(\w+)", lambda found: f"{_FLAGS.get(found[1], found[1])}:", mistake.text)
    return text.replace("add rate, or remove burst", "add --rate, or remove --burst")


_FLAGS: Final = {
    "name": "--name",
    "tenant": "--tenant",
    "scopes": "--scope",
    "queues": "--queue",
    "rate": "--rate",
    "burst": "--burst",
}
_COMMANDS = (
    *client_jobs.COMMANDS,
    *client_queues.COMMANDS,
    *client_transfer.COMMANDS,
    *migration.COMMANDS,
    work,
    backup,
    healthcheck,
)
for _command in _COMMANDS:
    cli.add_command(_command)


def _warn_of_variables() -> None:
    """Prints one line for each variable of the environment that looks like a setting and is not one."""
    for line in variables.warnings(os.environ, known_variables(os.environ)):
        standard_files.error_line(f"{PROGRAM}: warning: {line}")


def known_variables(environ: Iterable[str]) -> set[str]:
    """Every variable that a command reads; those of `broker` only if one of `environ` may be of it."""
    found = {COMMAND_VARIABLE, SECRET_VARIABLE, *target.VARIABLES}
    commands: list[click.Command] = [cli]
    if any(name.startswith(f"{variables.PREFIX}BROKER_") for name in environ):
        from gateway.broker.__main__ import broker as of_broker  # noqa: PLC0415 (only when asked for)

        commands.append(of_broker)
    while commands:
        command = commands.pop()
        if isinstance(command, click.Group):
            commands += command.commands.values()
        for option in command.params:
            found |= {option.envvar} if isinstance(option.envvar, str) else set(option.envvar or ())
    return found


def main() -> None:
    """The entry point of the console script."""
    standard_files.open_closed()
    standard_files.write_any_path()
    standard_files.ignore_lost_messages()
    with standard_files.checked_output(PROGRAM):
        _run()


def _run() -> NoReturn:
    """Runs the command of the command line, and exits."""
    arguments = sys.argv[1:] or shlex.split(os.environ.get(COMMAND_VARIABLE, ""))
    if arguments[:1] != ["doctor"]:  # whose report has these warnings
        _warn_of_variables()
    try:
        status = cli.main(arguments, prog_name=PROGRAM, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except click.ClickException as exc:
        standard_files.error_line(f"{PROGRAM}: {usage_mistake(exc)}")
        sys.exit(exc.exit_code)
    except click.Abort:
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)
