"""How many open files the processes may need, and whether the system allows that many. Opens no files itself."""

from __future__ import annotations

import contextlib
import resource
from typing import Final

from gateway.common.counted import counted
from gateway.kestrel.discovery.members import parse_sources, read_file
from gateway.settings import Settings

# Files, pipes and sockets in addition to clients, leases, and blocked gets.
BESIDE: Final = 300


def of_worker(settings: Settings) -> int:
    """The most files that a worker opens when all its limits are reached."""
    return settings.max_connections + _to_kestrel(settings)


def of_broker(settings: Settings) -> int:
    """The most files that the embedded broker opens for the workers."""
    return settings.workers * _to_kestrel(settings)


def prepare(settings: Settings, *, embedded: bool) -> list[str]:
    """Raises the soft limit of this process and its children to the hard limit. Returns warnings if that is too low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return shortages(settings, soft, embedded=embedded)


def shortages(settings: Settings, allowed: int, *, embedded: bool) -> list[str]:
    """Warnings for processes that may need more than the `allowed` number of open files."""
    if allowed == resource.RLIM_INFINITY:
        return []
    limits = "--max-connections" if embedded else "--max-connections, --max-leases or --max-waits"
    needed = {"a worker": of_worker(settings)} | ({"the broker": of_broker(settings)} if embedded else {})
    return [
        f"{who} may need {counted(count, 'open file')}, but the system allows only {allowed}; raise the hard limit "
        f"(ulimit -Hn, LimitNOFILE=), or lower {'--workers' if who == 'the broker' else limits}"
        for who, count in needed.items()
        if count > allowed
    ]


def _to_kestrel(settings: Settings) -> int:
    servers = _servers(settings)
    if not servers:  # all leases and waits of a worker share one connection to the embedded broker
        return settings.kestrel_pool_size + BESIDE
    return settings.max_leases + servers * (settings.kestrel_pool_size + settings.max_waits) + BESIDE


def _servers(settings: Settings) -> int:
    """The number of named servers; 0: the embedded broker. A name or set for many servers counts as one."""
    sources = set(parse_sources(settings.kestrel))
    if settings.kestrel_file is not None:
        sources.update(read_file(settings.kestrel_file))
    return len(sources)
