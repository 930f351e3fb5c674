"""The list of servers: from the settings, a file, DNS, or their own registration in ZooKeeper.

    --kestrel a:22133,b:22133         addresses, separated by commas; the flag may be repeated
    --kestrel dns:queues:22133        every address of the name, looked up again every --kestrel-resolve seconds
    --kestrel zk:z1:2181,z2:2181/jobs every server that is registered below /jobs/read and /jobs/write
    --kestrel-file FILE               one of the above per line, `#` begins a comment; read again on SIGHUP

Owns the sources of addresses, and the watches of ZooKeeper. Connects to no server. A name that cannot be looked up, and
a ZooKeeper that cannot be reached, keep their previous addresses.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.common.net import host_and_port
from gateway.config.toml_file import Mistake, MistakesError
from gateway.files import read_trusted
from gateway.kestrel.address import Address, parse_address
from gateway.kestrel.discovery.serverset import ZK, ServerSet, parse_server_set
from gateway.kestrel.discovery.zookeeper import Watch
from gateway.settings import SettingsError

log = logging.getLogger(__name__)

DNS = "dns:"


@dataclass(frozen=True, slots=True)
class HostName:
    """A name that stands for all its addresses."""

    name: str
    port: int


MemberSource = Address | HostName | ServerSet


def parse_sources(texts: Sequence[str]) -> tuple[MemberSource, ...]:
    """Reads the values of `--kestrel`. Raises SettingsError."""
    sources = [_parse(part) for part in _parts(texts)]
    if texts and not sources:
        raise SettingsError("kestrel: names no server; give an address such as 127.0.0.1:22133")
    return tuple(dict.fromkeys(sources))


def read_file(path: Path) -> tuple[MemberSource, ...]:
    """The sources in the file. Raises MistakesError with every mistake and its line."""
    mistakes: list[Mistake] = []
    sources: list[MemberSource] = []
    try:
        lines = read_trusted(path).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8"
        raise MistakesError([Mistake(str(path), 0, f"cannot be read: {reason}")]) from exc
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            sources.extend(parse_sources([text]))
        except SettingsError as exc:
            mistakes.append(Mistake(str(path), number, str(exc)))
    if not sources and not mistakes:
        mistakes.append(Mistake(str(path), 0, "names no server"))
    if mistakes:
        raise MistakesError(mistakes)
    return tuple(dict.fromkeys(sources))


def check(texts: Sequence[str], file: Path | None) -> None:
    """Returns if the settings name servers correctly. Raises SettingsError with one line."""
    parse_sources(texts)
    if file is not None:
        try:
            read_file(file)
        except MistakesError as exc:
            raise SettingsError(f"kestrel-file: {exc}") from exc


def _parts(texts: Sequence[str]) -> Iterator[str]:
    """The parts between commas, except commas between the hosts of one ZooKeeper: its path ends these."""
    hosts = ""
    for part in (part.strip() for text in texts for part in text.split(",")):
        if hosts or part.startswith(ZK):
            hosts += f",{part}" if hosts else part
            if "/" in part:
                yield hosts
                hosts = ""
        elif part:
            yield part
    if hosts:
        yield hosts


def _parse(text: str) -> MemberSource:
    if text.startswith(ZK):
        return parse_server_set(text)
    if not text.startswith(DNS):
        return parse_address(text)
    if (found := host_and_port(text.removeprefix(DNS), lowest_port=1)) is None:
        raise SettingsError(f"kestrel: {text!r} is not dns:NAME:PORT (port 1 to 65535)")
    return HostName(*found)


class Members:
    """The addresses of a deployment. named: by the settings. resolve_s: names are looked up this often.

    Raises MistakesError.
    """

    def __init__(self, named: Sequence[MemberSource], file: Path | None, resolve_s: float) -> None:
        self._resolve_s = resolve_s
        self._resolver: asyncio.Task[None] | None = None
        self._named = tuple(named)
        self._file = file
        self._listed = read_file(file) if file is not None else ()
        self._resolved: dict[HostName, tuple[Address, ...]] = {}
        self._on_change: Callable[[], None] | None = None
        self._watches: dict[ServerSet, Watch] = {}

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Every known address, once."""
        return tuple(dict.fromkeys(address for source in self._sources for address in self._of(source)))

    @property
    def read_only(self) -> frozenset[Address]:
        """The addresses that accept no items according to every source that names them."""
        sets = [watch.published for watch in self._watches.values()]
        found = frozenset(address for each in sets for address in each.read_only)
        named = (a for source in self._sources if not isinstance(source, ServerSet) for a in self._of(source))
        return found.difference(named, *(frozenset(each.addresses) - each.read_only for each in sets))

    async def start(self, on_change: Callable[[], None]) -> None:
        """Starts watching and looking up names. Calls `on_change` each time the addresses may have changed."""
        self._on_change = on_change
        await self._watch()
        self._resolver = asyncio.create_task(self._resolve_each_time(on_change), name="resolver of Kestrel's names")

    async def close(self) -> None:
        """Ends every watch and lookup."""
        if self._resolver is not None:
            self._resolver.cancel()
        self._on_change = None
        await self._watch()

    async def read(self) -> None:
        """Reads the file again. Raises MistakesError; then the previous content stays in use."""
        if self._file is not None:
            self._listed = await asyncio.to_thread(read_file, self._file)
            await self._watch()

    async def resolve(self) -> None:
        """Looks up every name again, and checks ZooKeeper. Never raises: failures are logged."""
        for watch in self._watches.values():
            watch.look()
        names = [source for source in self._sources if isinstance(source, HostName)]
        for name in names:
            try:
                found = await asyncio.get_running_loop().getaddrinfo(name.name, name.port, type=socket.SOCK_STREAM)
            except OSError as error:
                log.warning("Kestrel: %s cannot be looked up: %s", name.name, error)
                continue
            self._resolved[name] = tuple(dict.fromkeys(Address(str(each[4][0]), name.port) for each in found))
        self._resolved = {name: self._resolved[name] for name in names if name in self._resolved}

    async def _resolve_each_time(self, on_change: Callable[[], None]) -> None:
        while True:
            await self.resolve()
            on_change()
            await asyncio.sleep(self._resolve_s)

    @property
    def _sources(self) -> tuple[MemberSource, ...]:
        return self._named + self._listed

    def _of(self, source: MemberSource) -> tuple[Address, ...]:
        """The addresses of a source, as far as they are known."""
        if isinstance(source, Address):
            return (source,)
        if isinstance(source, HostName):
            return self._resolved.get(source, ())
        return self._watches[source].published.addresses if source in self._watches else ()

    async def _watch(self) -> None:
        """Watches exactly the server sets that are named."""
        on_change = self._on_change
        wanted = [source for source in self._sources if isinstance(source, ServerSet)] if on_change else []
        ending = [self._watches.pop(each) for each in list(self._watches) if each not in wanted]
        for each in wanted:
            if each not in self._watches and on_change is not None:
                self._watches[each] = Watch(each, on_change)
        await asyncio.gather(*(watch.close() for watch in ending))
