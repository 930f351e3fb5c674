"""Addresses as people write them, and TCP options that detect a dead peer. Opens nothing, and resolves no name."""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
import ssl
from collections.abc import Iterable
from typing import Any, Final

TcpOption = tuple[int, int, int]
"""Level, name and value, as setsockopt takes them."""

UNIX: Final = "unix:"
"""Before the path of a Unix socket, where an address is wanted."""

BACKLOG: Final = 4096
"""Connections that wait until they are accepted. The system's limit is net.core.somaxconn, by default 4096."""

SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""This process or machine lacks descriptors or memory. Such an error says nothing about a peer."""


def reason(error: BaseException) -> str:
    """Why a connection failed, without the address that the event loop adds."""
    if isinstance(error, socket.gaierror | ssl.SSLError):  # their numbers are not those of errno
        return error.strerror or type(error).__name__
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    found = re.search(r"\[Errno ([0-9]+)\]", str(error))  # of several addresses of one name, the first one's
    return os.strerror(int(found[1])) if found else str(error) or type(error).__name__


def host_and_port(text: str, lowest_port: int = 0) -> tuple[str, int] | None:
    """Reads `HOST:PORT` or `[v6]:PORT`, where the port is at most 65535; None for anything else."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return None
    if not (colon and is_host(host) and port.isascii() and port.isdigit()):
        return None
    return (host, int(port)) if lowest_port <= int(port) < 65536 else None


def is_host(text: str) -> bool:
    """Whether it can be looked up: an address, or a name with parts of 1 to 63 characters."""
    try:
        text.encode("idna")
    except UnicodeError:
        return False
    return bool(text) and not any(char.isspace() for char in text)


def joined(host: str, port: int) -> str:
    """`HOST:PORT`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether a listener on `host` can be reached only from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def keepalive(idle_s: int, interval_s: int, probes: int) -> tuple[TcpOption, ...]:
    """No delay of small writes, and probes: a peer whose host is gone is detected in `idle_s + interval_s * probes`.

    Source: tcp(7). An option that this system does not have is left out.
    """
    return _options(
        (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", idle_s),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", interval_s),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", probes),
    )


def user_timeout(seconds: float) -> tuple[TcpOption, ...]:
    """A peer counts as gone after this long without acknowledging or reading data. Source: tcp(7)."""
    return _options((socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", round(seconds * 1000)))


def set_options(sock: Any, options: Iterable[TcpOption]) -> None:
    """Sets them on a socket, or on an event loop's substitute for one. Raises OSError if it is no open TCP socket."""
    for level, name, value in options:
        sock.setsockopt(level, name, value)


def _options(*wanted: tuple[int, str, int]) -> tuple[TcpOption, ...]:
    return tuple((level, getattr(socket, name), value) for level, name, value in wanted if hasattr(socket, name))
