"""The commands `backup` and `healthcheck`.

Exit codes: 0 there is a sound copy, or the gateway is ready; 1 if not (a line says why), 2 wrong usage.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import click

from gateway.common.net import UNIX, reason
from gateway.common.one_line import one_line
from gateway.common.standard_files import error_line
from gateway.settings import Settings


@click.command()
@click.argument("copy", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=Settings().data,
    envvar="KESTREL_GATEWAY_DATA",
    help=f"directory that the gateway uses [default {Settings().data}]",
)
def backup(copy: Path, data: Path) -> None:
    """Copy the data directory to COPY, even while a gateway uses it, and verify the copy.

    COPY has every job whose enqueue was answered with 201 before the command began. It is a data directory: to restore
    it, move it to the place of the lost one and start the gateway. It contains the lease key: keep it as private as the
    data directory.
    """
    from gateway.client.progress import ProgressBar  # noqa: PLC0415 (`--help` stays quick)
    from gateway.maintenance import backup as backups  # noqa: PLC0415 (`--help` stays quick)

    try:
        with ProgressBar("copying", None) as bar:
            names = backups.back_up(data, copy, lambda _, done, total: bar.reached(done, total))
        sound = _keys_are_sound(copy / backups.KEYS) and (backups.BROKER not in names or _jobs_are_sound(copy))
    except backups.BackupError as exc:
        error_line(f"kestrel-gateway backup: {exc}")
        sys.exit(1)
    if not sound:
        error_line(f"kestrel-gateway backup: {data} is damaged, and so is its copy {copy}; the lines above say what")
        sys.exit(1)
    click.echo(f"start the copy with: kestrel-gateway serve --data {shlex.quote(str(copy))}")


def _keys_are_sound(path: Path) -> bool:
    import sqlite3  # noqa: PLC0415

    from gateway.delivery.idempotency import ledger_file  # noqa: PLC0415

    try:
        damages = list(ledger_file.damages(path))
    except sqlite3.Error as exc:
        damages = [f"{path} cannot be read: {exc}"]
    for line in damages:
        error_line(line)
    return not damages


def _jobs_are_sound(copy: Path) -> bool:
    """Lets the broker's own check examine the copy; shows its last line, or all lines if something is damaged."""
    command = [sys.executable, "-P", "-m", "gateway.broker", "check", str(copy)]
    checked = subprocess.run(  # noqa: S603 (our own program)
        command, stdout=subprocess.PIPE, encoding="utf-8", errors="surrogateescape", check=False
    )
    lines = checked.stdout.splitlines()
    for line in lines if checked.returncode else lines[-1:]:
        click.echo(line, err=checked.returncode != 0)
    return checked.returncode == 0


@click.command()
@click.option("--url", default=None, help="URL to request [default: /readyz where `serve` listens]")
def healthcheck(url: str | None) -> None:
    """Exit with 0 if the gateway on this machine is ready, with 1 if it is not."""
    from http.client import HTTPException  # noqa: PLC0415 (`--help` stays quick)

    from gateway.maintenance import health  # noqa: PLC0415

    environ = os.environ
    path = "" if url else environ.get("KESTREL_GATEWAY_LISTEN", "").removeprefix(UNIX)
    scheme = "https" if environ.get("KESTREL_GATEWAY_SSL_CERTFILE") and not path else "http"
    target = url or f"{scheme}://127.0.0.1:{environ.get('KESTREL_GATEWAY_PORT') or Settings().port}/readyz"
    try:
        # The certificate of this machine does not name 127.0.0.1.
        status = health.status_of(target, path=path, verify=url is not None)
    except (OSError, HTTPException, ValueError) as exc:
        error_line(f"{path or target} does not answer: {reason(exc)}")
        sys.exit(1)
    click.echo(one_line(f"{path or target}: {status}"), err=status != 200)
    sys.exit(0 if status == 200 else 1)
