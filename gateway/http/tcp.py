"""TCP and Unix sockets for the HTTP server: options that detect a dead peer, and the kernel's view of a connection.

Plain functions over a socket; owns no socket and keeps no state.
"""

from __future__ import annotations

import select
import socket
from typing import Any, Final

from gateway.common import net

KEEPALIVE_PROBES: Final = 3

_TCP_INFO: Final = getattr(socket, "TCP_INFO", None)
# Source: Linux include/net/tcp_states.h. In each of these states the peer has closed or reset its side.
_PEER_CLOSED: Final = frozenset({6, 7, 8, 9, 11})  # TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK, CLOSING

TcpOptions = tuple[net.TcpOption, ...]


def options(keepalive_s: float, user_timeout_s: float) -> TcpOptions:
    """Options with which the kernel detects a dead peer: within twice `keepalive_s` if idle, else in `user_timeout_s`.

    The second applies to unacknowledged data, and to a peer that reads nothing. Source: tcp(7); the kernel knows only
    whole seconds of idle time.
    """
    idle_s = max(1, round(keepalive_s))
    interval_s = max(1, round(idle_s / KEEPALIVE_PROBES))
    return (*net.keepalive(idle_s, interval_s, KEEPALIVE_PROBES), *net.user_timeout(user_timeout_s))


def tune(sock: Any, wanted: TcpOptions) -> None:
    """Sets the options. `sock` is a socket or the event loop's substitute for one.

    A socket that is not a TCP socket, or is already closed, stays unchanged.
    """
    try:
        net.set_options(sock, wanted)
    except OSError:
        return


def peer_closed(sock: Any) -> bool:
    """Whether the kernel knows that the peer has closed or reset. Reads nothing. False if the kernel does not tell.

    A close behind bytes that do not fit the kernel's buffer is not known before these are read.
    """
    try:
        return _TCP_INFO is not None and sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 1)[0] in _PEER_CLOSED
    except (OSError, ValueError):  # it is no TCP socket, or closed; ValueError: uvloop's substitute for a closed socket
        return _unix_peer_closed(sock)


def _unix_peer_closed(sock: Any) -> bool:
    """The same for a Unix socket. Source: poll(2)."""
    try:
        if sock.family != socket.AF_UNIX or not hasattr(select, "POLLRDHUP"):
            return False
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))
    except (OSError, ValueError):  # it is closed
        return False


def own_socket(sock: Any) -> Any:
    """A socket object for the same descriptor, for `peer_closed`: uvloop's substitute makes a new one for each call.

    It must be detached before it is freed, because the descriptor is not its own.
    """
    try:
        return socket.socket(sock.family, sock.type, sock.proto, fileno=sock.fileno())
    except (OSError, ValueError, AttributeError):
        return sock


def addresses(sock: Any) -> tuple[tuple[str, int | None] | None, tuple[str, int] | None]:
    """The local address and the peer's, as in ASGI; None if unknown. For a Unix socket: its path, and None."""
    try:
        own = sock.getsockname()
        peer = sock.getpeername()
    except OSError:  # it is gone already
        return None, None
    server = (str(own[0]), int(own[1])) if isinstance(own, tuple) else (own, None) if own else None
    return server, (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) else None
