"""TCP as the HTTP server needs it: options that notice a dead peer, and what the kernel knows of a connection.

Plain functions over a socket; owns no socket and keeps no state.
"""

from __future__ import annotations

import socket
from typing import Any, Final

KEEPALIVE_PROBES: Final = 3

# Source: Linux include/net/tcp_states.h. In each of these the peer has closed or reset its side.
_PEER_CLOSED: Final = frozenset({6, 7, 8, 9, 11})  # TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK, CLOSING

Options = tuple[tuple[int, int, int], ...]


def options(keepalive_s: float, user_timeout_s: float) -> Options:
    """What makes the kernel notice a vanished peer: in twice `keepalive_s` when idle, else in `user_timeout_s`.

    Unacknowledged data, or a peer that reads nothing, counts as the second. Source: tcp(7); the kernel knows whole
    seconds of idleness only.
    """
    idle_s = max(1, round(keepalive_s))
    return tuple(
        (level, getattr(socket, name), value)
        for level, name, value in (
            (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
            (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
            (socket.IPPROTO_TCP, "TCP_KEEPIDLE", idle_s),
            (socket.IPPROTO_TCP, "TCP_KEEPINTVL", max(1, round(idle_s / KEEPALIVE_PROBES))),
            (socket.IPPROTO_TCP, "TCP_KEEPCNT", KEEPALIVE_PROBES),
            (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", round(user_timeout_s * 1000)),
        )
        if hasattr(socket, name)
    )


def tune(sock: Any, wanted: Options) -> None:
    """Sets the options. `sock` is a socket or the event loop's stand-in for one.

    A socket that is no TCP socket, or is gone already, stays as it is.
    """
    try:
        for level, option, value in wanted:
            sock.setsockopt(level, option, value)
    except OSError:
        return


def peer_closed(sock: Any) -> bool:
    """Whether the kernel knows that the peer has closed or reset; nothing is read. False where it does not tell.

    A close behind bytes that do not fit the kernel's buffer is not known before they are read.
    """
    if not hasattr(socket, "TCP_INFO"):
        return False
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in _PEER_CLOSED
    except (OSError, ValueError):  # ValueError: uvloop's stand-in for a socket that is closed
        return False
