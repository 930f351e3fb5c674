"""What all commands that call a gateway have in common: how they find it, their output, and their exit codes.

0    done
1    the gateway refused, or something failed
2    the command line or the file of settings is wrong
3    there is no job, no queue, or no such lease or dead letter
4    the gateway does not accept the key
5    the gateway is unreachable or cannot do it now: a later try may succeed
130  interrupted
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from gateway.client import interrupts, target
from gateway.client.failures import CallFailed
from gateway.common.flags import Seconds
from gateway.common.standard_files import error_line

FAILED: Final = 1
NOTHING: Final = 3
NOT_ALLOWED: Final = 4
AWAY: Final = 5
INTERRUPTED: Final = 130

_NOTHING_CODES: Final = frozenset({"queue-not-found", "queue-empty", "lease-not-found", "dead-letter-not-found"})

_WHERE: Final = (
    click.option("--url", help=f"the gateway [variable {target.URL_VARIABLE}; default {target.DEFAULT_URL}]"),
    click.option("--key", help=f"the key; other users of this machine can see a flag [variable {target.KEY_VARIABLE}]"),
    click.option(
        "--key-file",
        type=click.Path(path_type=Path),
        help=f"file that contains only the key [variable {target.KEY_FILE_VARIABLE}]",
    ),
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        help="TOML file with url, key and key_file "
        f"[variable {target.FILE_VARIABLE}; default ~/.config/kestrel-gateway/client.toml]",
    ),
)
_RETRY: Final = click.option(
    "--retry",
    "retry_s",
    type=Seconds(),
    default=10.0,
    help="how long to try again while the gateway is unreachable or busy [default 10]",
)


def where(command: Any) -> Any:
    """Adds the options that say where the gateway is. The command gets them as `address: Target`."""

    @functools.wraps(command)
    def run(
        *args: Any, url: str | None, key: str | None, key_file: Path | None, config: Path | None, **options: Any
    ) -> Any:
        _refuse_other_bytes()
        try:
            address = target.find(url=url, key=key, key_file=key_file, config=config)
        except target.TargetError as exc:
            raise click.UsageError(str(exc)) from exc
        return command(*args, address=address, **options)

    for option in reversed(_WHERE):
        run = option(run)
    return run


def _refuse_other_bytes() -> None:
    """Raises click.UsageError if a value that requests have as text is not UTF-8. A job may have any bytes."""
    context = click.get_current_context()
    for each in context.command.params:
        value = context.params.get(each.name or "")
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and each.name != "text" and not _is_utf8(text):
                raise click.UsageError(f"{each.opts[0].lstrip('-')}: {text!a} is not UTF-8")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a byte of the command line that Python keeps as half a surrogate
        return False
    return True


def calls(command: Callable[..., Any]) -> Any:
    """Adds the same options, and --retry. The command gets `api: GatewayApi`, and its failures become exit codes."""

    @functools.wraps(command)
    def run(*args: Any, address: target.Target, retry_s: float, **options: Any) -> Any:
        from gateway.client.api import GatewayApi  # noqa: PLC0415 (`--help` stays quick)

        try:
            with GatewayApi(address, retry_s, notice) as api:
                command(*args, api=api, **options)
        except CallFailed as failed:
            notice(str(failed))
            sys.exit(exit_code(failed))
        if api.coverage:
            notice(f"only {api.coverage} Kestrel servers answered")
            sys.exit(AWAY)

    return where(_RETRY(interruptible(run)))


def interruptible(command: Callable[..., Any]) -> Any:
    """The command, which any of the signals that end a program ends like Ctrl-C."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> Any:
        with interrupts.raised():
            return command(*args, **options)

    return run


def exit_code(failed: CallFailed) -> int:
    """The exit code for a failure."""
    if failed.code in _NOTHING_CODES:
        return NOTHING
    if failed.not_allowed:
        return NOT_ALLOWED
    return AWAY if failed.retryable else FAILED


def notice(text: str) -> None:
    """One line for people, on standard error."""
    error_line(f"kestrel-gateway: {text}")


def show_json(value: Any) -> None:
    """A value as one line of JSON."""
    click.echo(json.dumps(value, ensure_ascii=False))


def refuse_unused(why: str, *names: str) -> None:
    """Raises click.UsageError if one of these parameters is on the command line. why: when it has no effect."""
    context = click.get_current_context()
    for option in context.command.params:
        if option.name in names and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option.opts[0]} has no effect {why}; leave it out")


def confirm(question: str, *, yes: bool) -> None:
    """Returns if the answer is yes. Without a terminal nobody can answer, so --yes is needed there."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Give --yes to confirm; there is no terminal to ask.")
    click.confirm(question, abort=True)
