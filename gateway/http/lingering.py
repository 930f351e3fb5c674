"""The end of a connection: after its last answer it reads for a moment, so that the client can read the answer.

Unread bytes would make the kernel reset the connection, and the reset can overtake the answer. Source: RFC 9112,
section 9.6.
"""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.http.state import ServerState

LINGER_S: Final = 2.0  # for the client to read the answer and to close
LINGER_BYTES: Final = 32 << 20  # many clients send a whole body before they read an answer
_READ_BYTES: Final = 65536  # discarded at once; more waits for its turn among all connections


class Lingering:
    """Discards what the client still sends, at most LINGER_BYTES. The connection ends it after LINGER_S."""

    __slots__ = ("_loop", "_server_state", "_transport", "discarded_bytes")

    def __init__(self, transport: asyncio.Transport, server_state: ServerState) -> None:
        self._transport = transport
        self._server_state = server_state
        self._loop = asyncio.get_running_loop()
        self.discarded_bytes = 0

    def discard(self, count: int) -> None:
        """The client has sent `count` more bytes."""
        self.discarded_bytes += count
        if self.discarded_bytes > LINGER_BYTES:
            self._transport.close()
        elif self.discarded_bytes > _READ_BYTES:
            self._transport.pause_reading()
            self._loop.call_later(self._server_state.discard(count, self._loop.time()), self._read_on)

    def _read_on(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()
