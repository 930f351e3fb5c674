"""Accepts connections, a few in a turn of the event loop. A TLS handshake has a deadline, and counts as a connection.

asyncio's own server accepts all waiting connections at once, so a flood of them would block the loop. It reports a TLS
connection only after its handshake, so silent connections would escape every limit.

1. After AT_ONCE new connections, each of which takes about 0.5 ms, other work on the event loop runs.
2. TLS handshakes and connections together stay within the limit. For a new one above the limit, the handshake that
   began first is ended, otherwise the connection that has been idle longest, otherwise the new one. Without TLS the
   protocol keeps the limit, because it can send an answer.
3. Accepted sockets have the listener's TCP options. Source: tcp(7).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Final

from gateway.common import net
from gateway.http import tcp
from gateway.http.state import ServerState

log = logging.getLogger(__name__)

# Source: accept(2).
_NOT_LISTENING: Final = frozenset({errno.EBADF, errno.EINVAL})
RETRY_S: Final = 0.1
AT_ONCE: Final = 8
"""Connections accepted in a turn: 1 ms of work. With fewer, a flood of connections starves others (measured)."""


class Listener:
    """Serves `listener` from `start` to `close`. context: None without TLS. protocol: makes one for each connection."""

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext | None,
        protocol: Callable[[], asyncio.Protocol],
        state: ServerState,
    ) -> None:
        self._listener = listener
        self._context = context
        self._protocol = protocol
        self._state = state
        self._handshakes: dict[asyncio.Task[None], None] = {}  # oldest first
        self._accepting: asyncio.Task[None] | None = None

    def start(self, backlog: int) -> None:
        """Accepts connections from now on. Called on the event loop."""
        tcp.tune(self._listener, self._state.limits.tcp)
        self._listener.setblocking(False)
        self._listener.listen(backlog)
        self._accepting = asyncio.get_running_loop().create_task(self._accept(), name="listener")

    def close(self) -> None:
        """Stops accepting, and ends the TLS handshakes in progress. Idempotent."""
        if self._accepting is not None:
            self._accepting.cancel()
        if self._context is not None:
            for handshake in self._handshakes:
                handshake.cancel()
        self._listener.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(self._listener)
            except OSError as exc:
                if exc.errno in _NOT_LISTENING:
                    return
                if exc.errno in net.SHORTAGES and not self._make_room():
                    log.warning("no connection can be accepted: %s", exc.strerror)
                    await asyncio.sleep(RETRY_S)
                continue
            self._accepted(sock)
            self._accept_more()
            await asyncio.sleep(0)

    def _accept_more(self) -> None:
        """Accepts what waits already, up to the number of a turn."""
        with contextlib.suppress(OSError):  # none waits; other errors come again where they are handled
            for _ in range(AT_ONCE - 1):
                sock, _ = self._listener.accept()
                sock.setblocking(False)
                self._accepted(sock)

    def _accepted(self, sock: socket.socket) -> None:
        count = len(self._state.connections) + len(self._handshakes)
        if self._context is not None and count >= self._state.limits.connections and not self._make_room():
            sock.close()
            return
        handshake = asyncio.get_running_loop().create_task(self._shake_hands(sock))
        self._handshakes[handshake] = None
        handshake.add_done_callback(self._ended)

    def _make_room(self) -> bool:
        """Ends a handshake or an idle connection to make room. Returns whether there was one."""
        oldest = next(iter(self._handshakes), None)
        if oldest is None:
            return self._state.idle.close_oldest()
        del self._handshakes[oldest]
        oldest.cancel()
        return True

    def _ended(self, handshake: asyncio.Task[None]) -> None:
        self._handshakes.pop(handshake, None)

    async def _shake_hands(self, sock: socket.socket) -> None:
        timeout_s = self._state.limits.header_timeout_s if self._context is not None else None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol, sock, ssl=self._context, ssl_handshake_timeout=timeout_s
            )
        except OSError as exc:  # includes ssl.SSLError and the deadline
            log.debug("a TLS handshake failed: %s", exc)
            sock.close()
        except BaseException:
            sock.close()
            raise
