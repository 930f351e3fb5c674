"""What a request may know of its client's connection. Owned by the HTTP edge; the HTTP server implements it.

A pure interface: no sockets, no server. The server puts one object per request at `scope["extensions"][EXTENSION]`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

EXTENSION: Final = "kestrel_gateway.client"


class ClientConnection(Protocol):
    """Reports at once that a request's client has disconnected, even while other requests are pipelined behind it."""

    request_id: str
    """Set by the application. The server's own answers to the request carry it too; if it is empty, a new one."""

    tenant: str
    """Set by the application when it answers; empty: unknown. The next request of the connection counts as its."""

    @property
    def head_bytes(self) -> int:
        """The size of the request's head."""

    @property
    def gone(self) -> bool:
        """True once no byte can reach the client: it closed or reset the connection, or the server gave it up."""

    @property
    def reached(self) -> bool:
        """True once the last bytes of the response were handed to an open transport.

        False before that, and permanently if the client was gone or did not read a large response to its end. It is no
        proof of receipt: the bytes may still be lost.
        """

    def on_gone(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls `callback` exactly once when the client is gone; at once if it is already gone.

        Returns a function that removes the callback; calling it late or twice does nothing. Callbacks run on the event
        loop, must not block and must not raise. No callback runs after the response is complete.
        """
