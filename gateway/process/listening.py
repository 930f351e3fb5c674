"""The listening socket of `serve`: a TCP port or a Unix socket. All workers accept on it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gateway.common.net import BACKLOG, UNIX, is_loopback, joined
from gateway.process import systemd
from gateway.process.datadir import StartError
from gateway.settings import Settings

SOCKET_MODE: Final = 0o660
"""Whoever may enter the directory and is in the socket's group can connect, as the other containers of a pod."""


@contextlib.contextmanager
def listening(settings: Settings) -> Iterator[socket.socket]:
    """The socket that systemd passes, or that the settings name; closed at the end. Raises StartError."""
    if (inherited := _inherited(settings)) is not None:
        with inherited:
            yield inherited
    elif settings.listen:
        path = settings.listen.removeprefix(UNIX)
        with _bind_unix(path) as listener:
            own = Path(path).stat().st_ino
            try:
                yield listener
            finally:
                with contextlib.suppress(OSError):
                    if Path(path).lstat().st_ino == own:  # not the socket of a gateway that has taken the path since
                        Path(path).unlink()
    else:
        with bind(settings.host, settings.port) as listener:
            yield listener


def _inherited(settings: Settings) -> socket.socket | None:
    """The socket of systemd's socket unit, or None. Raises StartError."""
    try:
        listener = systemd.inherited_socket(os.environ)
    except systemd.SystemdError as exc:
        raise StartError(f"listen: {exc}") from exc
    if listener is None or listener.family == socket.AF_UNIX or settings.keys is not None or settings.no_auth:
        return listener
    host = str(listener.getsockname()[0])
    if not is_loopback(host):
        listener.close()
        raise StartError(
            f"listen: systemd passed a socket on {host}, which is not a loopback address, and requests are not "
            "authenticated; give --keys, or put an authenticating proxy in front and give --no-auth"
        )
    return listener


def address(listener: socket.socket, scheme: str) -> str:
    """Where clients reach it, such as http://127.0.0.1:8080 or unix:/run/kestrel/gateway.sock."""
    if listener.family == socket.AF_UNIX:
        return f"{UNIX}{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"{scheme}://{joined(host, port)}"


def bind(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises StartError if the address is in use or is not an address of this machine."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as exc:
        raise StartError(f"host: {host!r} is not an address of this machine: {exc.strerror}") from exc
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host.strip("[]") == "::" else 1)
        listener.bind(where)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as exc:
        listener.close()
        advice = "; choose another port with --port" if exc.errno in {errno.EADDRINUSE, errno.EACCES} else ""
        raise StartError(f"port: cannot listen on {host}:{port}: {exc.strerror}{advice}") from exc
    return listener


def _bind_unix(path: str) -> socket.socket:
    """A listening Unix socket. Replaces the socket that a dead process left, and nothing else. Raises StartError."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        _remove_stale(path)
        listener.bind(path)
        Path(path).chmod(SOCKET_MODE)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as exc:
        listener.close()
        raise StartError(f"listen: cannot listen on {UNIX}{path}: {exc.strerror or exc}") from exc
    return listener


def _remove_stale(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
