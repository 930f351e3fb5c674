"""Asks each Kestrel server for its version, state and clock. Opens no queue."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheClientError, MemcacheError, MemcacheUnknownCommandError

from gateway.common.counted import counted
from gateway.kestrel.address import Address
from gateway.kestrel.discovery.members import HostName, MemberSource, parse_sources, read_file
from gateway.kestrel.discovery.serverset import ServerSet
from gateway.kestrel.discovery.zookeeper import Watch
from gateway.maintenance.doctor.finding import Finding
from gateway.maintenance.doctor.host import CLOCK_S
from gateway.settings import Settings

LOOKUP_S: Final = 5.0
"""The longest time for a set in ZooKeeper: twice the time that the gateway itself waits at its start, and a second."""
AT_ONCE: Final = 16
_NO_SERVER: Final = {
    "cannot be reached": "ZooKeeper cannot be reached at these addresses",
    "lists no server": "ZooKeeper lists no server; check the path, and `zookeeper` in Kestrel's configuration",
}
"""What to say instead of a watch's `trouble`."""


@dataclass(frozen=True, slots=True)
class AskedServer:
    """What a server answered. error: why it did not; then the rest is empty. ahead_s: of this host's clock; None if it
    does not say. answer_s: of the version."""

    address: str
    error: str = ""
    version: str = ""
    state: str = ""
    ahead_s: float | None = None
    answer_s: float = 0.0


def embedded(data: Path, settings: Settings) -> list[Finding]:
    """The embedded broker of the gateway that uses the data directory."""
    path = (data / "run").resolve() / "broker.sock"  # its own path may be too long for a socket
    asked = ask(Address("", 0, str(path)), settings)
    if asked.error:
        return [Finding("broker", "error", f"the embedded broker does not answer: {asked.error}")]
    return [Finding("broker", "ok", f"the embedded broker answers in {asked.answer_s * 1000:.1f} ms")]


def named(settings: Settings) -> list[Finding]:
    """Every server that the settings name, at the same time; and how their clocks differ from this host's."""
    found: list[Finding] = []
    addresses: list[Address] = []
    sources = (*parse_sources(settings.kestrel), *(read_file(settings.kestrel_file) if settings.kestrel_file else ()))
    for source in sources:
        try:
            addresses += _addresses(source)
        except OSError as exc:
            found.append(Finding("server", "error", f"{_shown(source)}: {exc.strerror or exc}"))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        asked = list(pool.map(lambda address: ask(address, settings), dict.fromkeys(addresses)))
    found += map(_of_server, asked)
    return found + list(_clocks(asked))


def ask(address: Address, settings: Settings) -> AskedServer:
    """Asks with the time limits that the gateway has. Never raises for what the server does."""
    where = address.path or (address.host, address.port)
    client = Client(
        where, connect_timeout=settings.kestrel_connect_timeout_s, timeout=settings.kestrel_command_timeout_s
    )
    try:
        began = time.monotonic()
        version = client.version().decode("ascii", "replace")
        answer_s = time.monotonic() - began
        state = ""
        with contextlib.suppress(MemcacheClientError, MemcacheUnknownCommandError):  # of a server that has none
            state = client.raw_command(b"status").decode("ascii", "replace").strip()
        client.version()  # connects again after such an error
        ahead_s = _ahead_s(client.sock)
    except (OSError, MemcacheError) as exc:
        reason = "no answer in time" if isinstance(exc, TimeoutError) else str(getattr(exc, "strerror", "") or exc)
        return AskedServer(str(address), reason or type(exc).__name__)
    finally:
        client.close()
    return AskedServer(str(address), "", version, state, ahead_s, answer_s)


def _ahead_s(connection: socket.socket) -> float | None:
    """By how much the server's clock is ahead. Reads `stats` no further than that, so the connection ends with it."""
    asked_at = time.time()
    connection.sendall(b"stats\r\n")
    with connection.makefile("rb") as lines:
        for line in lines:
            if line == b"END\r\n" or not line.startswith(b"STAT "):
                return None
            if found := re.fullmatch(rb"STAT time ([0-9]{1,12})\r\n", line):
                # A whole second means anything from its beginning to its end.
                return int(found[1]) + 0.5 - (asked_at + time.time()) / 2
    return None


def _of_server(asked: AskedServer) -> Finding:
    if asked.error:
        return Finding("server", "error", f"{asked.address}: {asked.error}")
    text = f"{asked.address}: version {asked.version}, answers in {asked.answer_s * 1000:.1f} ms"
    if asked.state.upper() in {"READONLY", "QUIESCENT", "DOWN", "WRITEAVOID"}:
        advice = "set it to up with PUT /backends/{backend}/status"
        return Finding("server", "warning", f"{text}, is {asked.state.upper()}; {advice}")
    return Finding("server", "ok", text)


def _clocks(asked: list[AskedServer]) -> Iterator[Finding]:
    known = {each.address: each.ahead_s for each in asked if each.ahead_s is not None}
    if not known:
        return
    wrong = {address: ahead_s for address, ahead_s in known.items() if abs(ahead_s) > CLOCK_S}
    if not wrong:
        yield Finding("clock", "ok", f"agrees with {counted(len(known), 'server')}, within {CLOCK_S:g} s")
    for address, ahead_s in wrong.items():
        side = "ahead of" if ahead_s > 0 else "behind"
        text = f"{address} is {abs(ahead_s):.0f} s {side} this host"
        yield Finding("clock", "warning", f"{text}, and ttl and delay are wrong by as much: set the clocks")


def _addresses(source: MemberSource) -> list[Address]:
    """Raises OSError."""
    if isinstance(source, Address):
        return [source]
    if isinstance(source, HostName):
        resolved = socket.getaddrinfo(source.name, source.port, type=socket.SOCK_STREAM)
        return [Address(str(each[4][0]), source.port) for each in resolved]
    return asyncio.run(_registered(source))


async def _registered(source: ServerSet) -> list[Address]:
    news = asyncio.Event()
    watch = Watch(source, news.set)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOKUP_S):
                while not watch.published.addresses:
                    await news.wait()
                    news.clear()
        if not watch.published.addresses:
            raise TimeoutError(_NO_SERVER.get(watch.trouble, watch.trouble) or "no answer in time")
        return list(watch.published.addresses)
    finally:
        await watch.close()


def _shown(source: MemberSource) -> str:
    return f"dns:{source.name}:{source.port}" if isinstance(source, HostName) else str(source)
