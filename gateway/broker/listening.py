"""Addresses on which the broker listens: parsed from text, and bound to sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from gateway.common import net


class AddressError(Exception):
    """The broker cannot listen on an address. The message names it and says why."""


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """A listening address: the path of a Unix socket, or host and port."""

    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return net.joined(self.host, self.port)


def parse_address(text: str) -> ListenAddress:
    """`HOST:PORT`, `[v6]:PORT` or `unix:PATH`. Raises ValueError."""
    if text.startswith("unix:"):
        if not text[5:] or len(os.fsencode(text[5:])) > 107:
            raise ValueError(f"{text!r}: a Unix socket's path has 1 to 107 bytes")
        return ListenAddress(path=text[5:])
    found = net.host_and_port(text)
    if found is None:
        raise ValueError(f"{text!r} is neither HOST:PORT, with an IPv6 address in brackets, nor unix:PATH")
    return ListenAddress(host=found[0], port=found[1])


async def bind(address: ListenAddress, loop: asyncio.AbstractEventLoop) -> list[socket.socket]:
    """Bound sockets. A name may have several addresses, which then share the port. Raises AddressError."""
    try:
        if address.path:
            return [_bind_unix(address.path)]
        infos = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        socks: list[socket.socket] = []
        for family, kind, protocol, _, where in dict.fromkeys(infos):
            sock = socket.socket(family, kind, protocol)
            socks.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            port = socks[0].getsockname()[1] if len(socks) > 1 else where[1]
            sock.bind((where[0], port, *where[2:]))
        return socks
    except OSError as exc:
        raise AddressError(f"cannot listen on {address}: {exc.strerror or exc}") from exc


def _bind_unix(path: str) -> socket.socket:
    """A socket to which only this user can connect. Replaces the socket of a dead broker, not of a running one."""
    try:
        stale = stat.S_ISSOCK(os.lstat(path).st_mode)
    except FileNotFoundError:
        stale = False
    if stale:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                Path(path).unlink()
    sock = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        sock.bind(path)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(mask)
    return sock
