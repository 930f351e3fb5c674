"""What a request may know of the connection it came by. Owned by the HTTP edge; the HTTP server implements it.

A pure interface: no sockets, no server. The server offers one object a request at `scope["extensions"][EXTENSION]`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

EXTENSION: Final = "kestrel_gateway.client"


class ClientConnection(Protocol):
    """Tells at once when the client of one request has vanished, also while other requests are pipelined behind it."""

    @property
    def head_bytes(self) -> int:
        """The size of the request's head."""

    @property
    def gone(self) -> bool:
        """True once nothing sent can reach the client: it closed, reset, or the server gave the connection up."""

    @property
    def reached(self) -> bool:
        """True once the response's last bytes were handed to an open transport that was not closing.

        False before that, and for good when the client was gone, or did not read a large response to its end. It is no
        receipt: the bytes may still be lost.
        """

    def on_gone(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls back exactly once when the client is gone, immediately when it already is.

        Returns a function that takes the callback back; calling that late or twice does nothing. Callbacks run on
        the event loop, must not block and must not raise. None is called after the response is complete.
        """
