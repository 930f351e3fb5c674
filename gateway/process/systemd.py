"""What systemd and a service tell each other; without systemd, nothing. Sources: sd_notify(3), sd_listen_fds(3)."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping
from typing import Final

_FIRST_DESCRIPTOR: Final = 3


class SystemdError(Exception):
    """systemd passed something that cannot be used. The message says what."""


def inherited_socket(environ: MutableMapping[str, str]) -> socket.socket | None:
    """The listening socket of a socket unit, or None. Removes its variables, which are not for children.

    Raises SystemdError.
    """
    owner, count = environ.get("LISTEN_PID"), environ.get("LISTEN_FDS", "0")
    if owner != str(os.getpid()):
        return None
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environ.pop(name, None)
    if count != "1":
        raise SystemdError(f"systemd passed {count} sockets: name one ListenStream= in the socket unit")
    listener = socket.socket(fileno=_FIRST_DESCRIPTOR)
    if listener.type != socket.SOCK_STREAM:
        raise SystemdError("systemd passed a datagram socket: name a ListenStream= in the socket unit")
    listener.setblocking(False)
    return listener


def notify(environ: MutableMapping[str, str], state: str) -> None:
    """Tells the service manager the state, such as READY=1. Ignores errors: the service works without it."""
    path = environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    if path.startswith("@"):
        path = "\0" + path[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(state.encode(), path)
