"""Examines this host: descriptors, the data directory and its disk, and the address to listen on."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import socket
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

from gateway.common import data_formats
from gateway.common.net import UNIX
from gateway.maintenance.doctor.finding import Finding
from gateway.maintenance.doctor.occupant import Occupant, of_port, parent_of
from gateway.process import descriptors
from gateway.process.datadir import OTHERS, StartError
from gateway.process.listening import bind
from gateway.settings import Settings

MIB: Final = 1 << 20
FULL_BYTES, LOW_BYTES, LOW_PART = 64 * MIB, 1024 * MIB, 0.05
"""Less than the first is an error: a full batch, the broker's log and its checkpoint may need that much. Less than the
second, or than that part of the disk, is a warning, early enough to act."""
SLOW_COMMIT_S: Final = 0.05
"""A commit waits for one synced write, and requests that arrive meanwhile share the next. Above this, a client without
concurrency gets fewer than 20 jobs a second stored."""
CLOCK_S: Final = 2.0
"""Differences of clocks up to this are not reported: a Kestrel server's time has whole seconds."""
COMMITS, COMMIT_BYTES, STREAM_BYTES = 16, 4096, 8 * MIB
MEASURE_S: Final = 2.0
"""The measurement ends after this time, with fewer writes on a slow disk."""


def descriptors_of(settings: Settings, *, embedded: bool, pid: int) -> Finding:
    """The limit of open files of the process `pid`; 0: of this process, whose children would have it."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    whose = "in this shell"
    if pid and hasattr(resource, "prlimit"):
        with contextlib.suppress(OSError):
            limit, whose = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1], "in the running gateway"
    needs = [f"a worker needs at most {descriptors.of_worker(settings)}"]
    if embedded:
        needs.append(f"the broker {descriptors.of_broker(settings)}")
    if shortages := descriptors.shortages(settings, limit, embedded=embedded):
        return Finding("descriptors", "warning", shortages[0], tuple(shortages[1:]))
    shown = "any number of" if limit == resource.RLIM_INFINITY else limit
    return Finding("descriptors", "ok", f"{shown} open files allowed {whose}; {', '.join(needs)}")


def disk_of(data: Path, *, embedded: bool = True) -> list[Finding]:
    """Rights, formats, room and speed of the data directory, or of the directory in which it would be made.

    embedded: whether the jobs are in it.
    """
    place = data
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        return [Finding("data", "error", f"{data} is not writable by this user; choose another directory with --data")]
    size = sum(each.lstat().st_size for each in data.glob("*") if each.is_file()) if data.exists() else 0
    found = [Finding("data", "ok", f"{data} holds {_mib(size)}" if data.exists() else f"{data} does not exist yet")]
    with contextlib.suppress(FileNotFoundError):
        mode = (data / "lease.key").stat().st_mode & 0o777
        if mode & OTHERS:
            text = (
                f"every user may read or write {data / 'lease.key'} (mode {mode:04o}), so `serve` does not start: "
                "remove the file, and the next start makes a new one; or chmod 600 it if no other user has read it"
            )
            found = [Finding("data", "error", text)]
    try:
        refused = data_formats.refused(data, embedded=embedded)
    except (OSError, sqlite3.Error) as exc:
        refused = f"{data}: a database cannot be read: {exc}"
    if refused is not None:
        found = [*(each for each in found if each.verdict == "error"), Finding("data", "error", refused)]
    total, _, free = shutil.disk_usage(place)
    room = f"{_mib(free)} of {_mib(total)} free"
    if free < FULL_BYTES:
        found.append(Finding("disk", "error", f"{room}; jobs will be refused (503 backend-refused): free some space"))
    elif free < min(LOW_BYTES, LOW_PART * total):
        found.append(Finding("disk", "warning", f"{room}; jobs are refused when it is full: free some space"))
    else:
        found.append(Finding("disk", "ok", room))
    if free >= FULL_BYTES:
        found.append(_speed(place))
    return found


def clock_of(data: Path) -> Finding:
    """Whether the clock is behind the last change of the embedded broker's files: then it was set back."""
    changes = [each.stat().st_mtime for each in data.glob("broker.sqlite*")]
    ahead_s = max(changes, default=0.0) - time.time()
    if ahead_s > CLOCK_S:
        text = f"{ahead_s:.0f} s behind the last stored job"
        return Finding("clock", "warning", f"{text}; ttl and delay of stored jobs end that much later: set the clock")
    return Finding("clock", "ok", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()))


def address_of(settings: Settings, gateway: Occupant | None) -> Finding:
    """Whether `serve` can listen, or already does. gateway: the one that uses the data directory."""
    if settings.listen:
        return _unix_socket(settings.listen.removeprefix(UNIX), gateway)
    where = f"{settings.host}:{settings.port}"
    try:
        bind(settings.host, settings.port).close()
    except StartError as exc:
        found = of_port(settings.host, settings.port)
        if gateway is not None and gateway.pid and gateway.pid in {found.pid, parent_of(found.pid)}:
            return Finding("port", "ok", f"{where} is served by the gateway of this data directory")
        if "in use" not in str(exc):
            return Finding("port", "error", str(exc))
        return Finding("port", "error", f"{where} is in use by {found}; choose another port with --port")
    if gateway is None:
        return Finding("port", "ok", f"{where} is free")
    return Finding("port", "warning", f"{where} is free, so the gateway of this data directory listens elsewhere")


def _unix_socket(path: str, gateway: Occupant | None) -> Finding:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except FileNotFoundError:
            if not Path(path).parent.is_dir():
                return Finding("socket", "error", f"{Path(path).parent} does not exist; make the directory")
        except ConnectionRefusedError:
            pass  # of a dead process: `serve` replaces it
        except OSError as exc:
            return Finding("socket", "error", f"{path}: {exc.strerror}")
        else:
            if gateway is None:
                return Finding("socket", "error", f"{path} is in use by another process; choose another with --listen")
            return Finding("socket", "ok", f"a process listens at {path}, and a gateway uses this data directory")
    if gateway is None:
        return Finding("socket", "ok", f"{path} is free")
    return Finding("socket", "warning", f"{path} is free, so the gateway of this data directory listens elsewhere")


def _speed(place: Path) -> Finding:
    """Writes as the broker's commits do, into a file that has no name any more."""
    commits: list[float] = []
    try:
        with tempfile.TemporaryFile(dir=place, prefix=".doctor-", buffering=0) as file:
            began = time.monotonic()
            while len(commits) < COMMITS and time.monotonic() - began < MEASURE_S / 2:
                commits.append(_synced(file.fileno(), COMMIT_BYTES))
            stream_s = _synced(file.fileno(), STREAM_BYTES)
    except OSError as exc:
        return Finding("disk speed", "error", f"cannot write to {place}: {exc.strerror}")
    commit_s = statistics.median(commits)
    text = f"a synced write takes {commit_s * 1000:.1f} ms; {STREAM_BYTES / MIB / stream_s:.0f} MiB/s"
    if commit_s > SLOW_COMMIT_S:
        return Finding("disk speed", "warning", f"{text}: each enqueue waits for such a write; use a faster disk")
    return Finding("disk speed", "ok", text)


def _synced(descriptor: int, size: int) -> float:
    began = time.monotonic()
    os.write(descriptor, bytes(size))
    os.fsync(descriptor)
    return max(time.monotonic() - began, 1e-6)


def _mib(size: int) -> str:
    return f"{size / MIB:.0f} MiB" if size < 1024 * MIB else f"{size / (1024 * MIB):.1f} GiB"
