"""The order of the examination: what runs, the settings, the files, this host, the servers."""

from __future__ import annotations

import dataclasses
import logging
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

import gateway
from gateway.common.net import UNIX, joined, reason
from gateway.kestrel.discovery import members
from gateway.maintenance import health
from gateway.maintenance.doctor import host, occupant, servers
from gateway.maintenance.doctor.finding import Finding, UsedSetting
from gateway.settings import Settings, SettingsError, flag

SECRET: Final = frozenset({"cluster_secret", "ssl_keyfile_password"})
"""Fields whose values are not shown."""


def version() -> str:
    """The first line of the report."""
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return f"kestrel-gateway {gateway.__version__}, Python {platform.python_version()}, {system}"


def used_settings(values: Mapping[str, Any], sources: Mapping[str, str]) -> list[UsedSetting]:
    """Every setting with its value. sources: of each field's value, where it is not the default."""
    return [
        UsedSetting(
            flag(field),
            _shown(field.name, values[field.name]),
            sources.get(field.name, "default"),
        )
        for field in dataclasses.fields(Settings)
    ]


def examine(
    values: Mapping[str, Any],
    used: Sequence[UsedSetting],
    unknown: Sequence[str],
    check_files: Callable[[Settings], Sequence[str]],
) -> Iterator[Finding]:
    """Every finding, as it is made.

    unknown: one line per variable that has no effect. check_files: gives one line per mistake in the files.
    """
    logging.getLogger("gateway").addHandler(logging.NullHandler())  # a finding says what a log line would say
    given = [each for each in used if each.source != "default"]
    notes = tuple(f"{each.flag} {each.value}  ({each.source})" for each in given)
    try:
        settings = Settings(**values)
    except SettingsError as exc:
        yield Finding("settings", "error", str(exc), notes)
        if unknown:
            yield Finding("environment", "warning", unknown[0], tuple(unknown[1:]))
        yield _not_checked("files", "gateway", "port", "descriptors", "data", "disk", "clock", "server", why="settings")
        return
    text = f"{len(given)} of {len(used)} are given; the others have their defaults"
    yield Finding("settings", "ok", text, notes)
    if unknown:
        yield Finding("environment", "warning", unknown[0], tuple(unknown[1:]))
    mistakes = check_files(settings)
    yield Finding("files", "error" if mistakes else "ok", *_first(mistakes or _files(settings)))
    readable, occupied = True, None
    try:
        occupied = occupant.of_directory(settings.data)
    except NotADirectoryError:
        readable = False
        text = f"{settings.data} cannot be a directory: a file is in its place; choose another directory with --data"
        yield Finding("gateway", "error", text)
    except OSError as exc:
        readable = False
        text = f"{settings.data} cannot be read: {exc.strerror}; run doctor as the gateway's user"
        yield Finding("gateway", "error", text)
    else:
        yield _gateway(settings, occupied)
    yield host.address_of(settings, occupied)
    knows_servers = _knows_servers(settings)
    if knows_servers:  # their number counts
        pid = occupied.pid if occupied else 0
        yield host.descriptors_of(settings, embedded=settings.is_embedded, pid=pid)
    if readable:
        yield from _jobs_place(settings, occupied)
    else:
        yield _not_checked("data", "disk", *(["clock"] if settings.is_embedded else []), why="data directory")
    if not knows_servers:
        yield _not_checked("descriptors", "server", why="list of servers")
    elif not settings.is_embedded:
        yield from servers.named(settings)


def _jobs_place(settings: Settings, occupied: occupant.Occupant | None) -> Iterator[Finding]:
    """The data directory, and the broker that uses it."""
    yield from host.disk_of(settings.data, embedded=settings.is_embedded)
    if settings.is_embedded:
        yield host.clock_of(settings.data)
        if occupied:
            yield from servers.embedded(settings.data, settings)


def _not_checked(*checks: str, why: str) -> Finding:
    """The checks that need what has an error above. why: what that is."""
    return Finding("not checked", "warning", f"{', '.join(checks)}: first correct the error in the {why} above")


def _knows_servers(settings: Settings) -> bool:
    """Whether the settings and their file name servers, or the embedded broker."""
    try:
        members.check(settings.kestrel, settings.kestrel_file)
    except SettingsError:
        return False
    return True


def _gateway(settings: Settings, occupied: occupant.Occupant | None) -> Finding:
    """Whether one runs on the data directory, and is ready."""
    if occupied is None:
        return Finding("gateway", "ok", f"no gateway runs on {settings.data}")
    who = f"runs (pid {occupied.pid})" if occupied.pid else "runs"
    path = settings.listen.removeprefix(UNIX)
    scheme = "https" if settings.ssl_certfile and not path else "http"
    target = "127.0.0.1" if settings.host in {"0.0.0.0", "::", ""} else settings.host  # noqa: S104 (compares)
    url = f"{scheme}://{joined(target.strip('[]'), settings.port)}/readyz"
    try:
        status = health.status_of(url, path=path, verify=False)
    except (OSError, HTTPException, ValueError) as exc:
        text = (
            f"{who}, and does not answer at {path or url}: {reason(exc)}; give doctor the flags and variables of serve"
        )
        return Finding("gateway", "warning", text)
    if status != 200:
        return Finding("gateway", "error", f"{who}, and is not ready: {path or url} answers {status}")
    return Finding("gateway", "ok", f"{who}, and is ready")


def _files(settings: Settings) -> list[str]:
    """The line for files without mistakes."""
    named = (
        settings.keys,
        settings.queues,
        settings.kestrel_file,
        settings.broker_config,
        settings.cluster_secret_file,
        settings.ssl_certfile,
    )
    names = [str(path) for path in named if path is not None]
    return [f"no mistakes in {', '.join(names)}" if names else "the settings name no files"]


def _first(lines: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    return lines[0], tuple(lines[1:])


def _shown(name: str, value: Any) -> str:
    if value is None or value in ("", ()):
        return ""
    if name in SECRET:
        return "(given)"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if isinstance(value, Path | str | int) else repr(value)
