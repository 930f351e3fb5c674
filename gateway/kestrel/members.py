"""Which servers there are: named in the settings, in a file, or by a name server.

    --kestrel a:22133,b:22133     addresses, separated by commas; the flag repeats
    --kestrel dns:queues:22133    every address of that name, looked up again every --kestrel-resolve seconds
    --kestrel-file FILE           one of the above a line, `#` begins a comment; read again on SIGHUP

Owns where addresses come from. Connects to none. A name that cannot be looked up keeps the addresses it had.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.kestrel.address import Address, parse_address
from gateway.settings import SettingsError
from gateway.tomlfile import Mistake, MistakesError

log = logging.getLogger(__name__)

DNS = "dns:"


@dataclass(frozen=True, slots=True)
class HostName:
    """A name that stands for all its addresses."""

    name: str
    port: int


Source = Address | HostName


def parse_sources(texts: Sequence[str]) -> tuple[Source, ...]:
    """Reads what `--kestrel` takes. Raises: SettingsError."""
    parts = [part.strip() for text in texts for part in text.split(",")]
    sources = [_parse(part) for part in parts if part]
    if texts and not sources:
        raise SettingsError("kestrel: names no server")
    return tuple(dict.fromkeys(sources))


def read_file(path: Path) -> tuple[Source, ...]:
    """The sources that the file lists. Raises: MistakesError, with every mistake by line."""
    mistakes: list[Mistake] = []
    sources: list[Source] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
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
    """Returns when the settings name servers as they should. Raises: SettingsError, one line."""
    parse_sources(texts)
    if file is not None:
        try:
            read_file(file)
        except MistakesError as exc:
            raise SettingsError(f"kestrel-file: {exc}") from exc


def _parse(text: str) -> Source:
    if not text.startswith(DNS):
        return parse_address(text)
    address = parse_address(text.removeprefix(DNS))
    if address.path:
        raise SettingsError(f"kestrel: {text!r} is not dns:NAME:PORT")
    return HostName(address.host, address.port)


class Members:
    """The addresses of a deployment. Raises: SettingsError, MistakesError."""

    def __init__(self, texts: Sequence[str], file: Path | None = None) -> None:
        self._settings = parse_sources(texts)
        self._file = file
        self._listed = read_file(file) if file is not None else ()
        self._resolved: dict[HostName, tuple[Address, ...]] = {}

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Every address that is known, each once."""
        found: dict[Address, None] = {}
        for source in self._settings + self._listed:
            for address in (source,) if isinstance(source, Address) else self._resolved.get(source, ()):
                found[address] = None
        return tuple(found)

    async def read(self) -> None:
        """Reads the file again. Raises: MistakesError; what was read before stays."""
        if self._file is not None:
            self._listed = await asyncio.to_thread(read_file, self._file)

    async def resolve(self) -> None:
        """Looks every name up again. Never raises: what cannot be looked up is logged."""
        names = [source for source in self._settings + self._listed if isinstance(source, HostName)]
        for name in names:
            try:
                found = await asyncio.get_running_loop().getaddrinfo(name.name, name.port, type=socket.SOCK_STREAM)
            except OSError as error:
                log.warning("Kestrel: %s cannot be looked up: %s", name.name, error)
                continue
            self._resolved[name] = tuple(dict.fromkeys(Address(str(each[4][0]), name.port) for each in found))
        self._resolved = {name: self._resolved[name] for name in names if name in self._resolved}
