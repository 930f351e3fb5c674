"""TCP as the HTTP server needs it: options that notice a dead peer, and what the kernel knows of a connection.

Plain functions over a socket; owns no socket and keeps no state.
"""

from __future__ import annotations

import socket
from typing import Any, Final

KEEPALIVE_IDLE_S: Final = 30
KEEPALIVE_INTERVAL_S: Final = 10
KEEPALIVE_PROBES: Final = 3
USER_TIMEOUT_MS: Final = 30_000

# Source: Linux include/net/tcp_states.h. In each of these the peer has closed or reset its side.
_PEER_CLOSED: Final = frozenset({6, 7, 8, 9, 11})  # TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK, CLOSING

_OPTIONS: Final = tuple(
    (level, getattr(socket, name), value)
    for level, name, value in (
        (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", KEEPALIVE_PROBES),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", USER_TIMEOUT_MS),
    )
    if hasattr(socket, name)
)


def tune(sock: Any) -> None:
    """Makes the kernel notice a vanished peer within a minute, idle or with data unacknowledged.

    `sock` is a socket or the event loop's stand-in for one. A socket that is no TCP socket, or is gone already, stays
    as it is.
    """
    try:
        for level, option, value in _OPTIONS:
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
    except OSError:
        return False
