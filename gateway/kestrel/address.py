"""The address of a Kestrel server, as the settings write it. Pure: resolves no name and opens nothing."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.common.net import host_and_port, joined
from gateway.settings import SettingsError


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP host and port, or the path of a Unix socket (then `host` is empty)."""

    host: str
    port: int
    path: str = ""

    @property
    def name(self) -> str:
        """The server's name for HTTP clients: `host:port`, or `unix:FILE` without the directories."""
        return f"unix:{self.path.rpartition('/')[2]}" if self.path else str(self)

    @property
    def marked(self) -> str:
        """The server's name in the detail of an error, where only operators see its address."""
        return f"server <{str(self).replace('>', '?')}>"

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return joined(self.host, self.port)


def parse_address(text: str) -> Address:
    """Reads `host:port`, `[v6]:port` or `unix:PATH`.

    Raises: SettingsError for anything else.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path or "\0" in path:
            raise SettingsError(f"kestrel: {text!r} has no path of a socket; write unix:PATH")
        return Address("", 0, path)
    if (found := host_and_port(text, lowest_port=1)) is None:
        raise SettingsError(
            f"kestrel: {text!r} is not HOST:PORT (port 1 to 65535, an IPv6 address as in [::1]:22133) or unix:PATH"
        )
    return Address(*found)
