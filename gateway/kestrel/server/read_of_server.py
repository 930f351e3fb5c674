"""What the open reads of all protocols have in common: their states, and their server. Sends nothing."""

from __future__ import annotations

from enum import Enum

from gateway.kestrel.server.server import Server


class ReadState(Enum):
    """The states of an open read."""

    HELD = "held"
    SETTLING = "settling"
    SETTLED = "settled"
    LOST = "lost"

    __hash__ = object.__hash__


MOVES: dict[ReadState, frozenset[ReadState]] = {
    ReadState.HELD: frozenset({ReadState.SETTLING, ReadState.SETTLED, ReadState.LOST}),
    ReadState.SETTLING: frozenset({ReadState.SETTLED}),
    ReadState.SETTLED: frozenset(),
    ReadState.LOST: frozenset(),
}


class ReadOfServer:
    """One item that the server has set aside."""

    __slots__ = ()
    _server: Server
    _state: ReadState
    key: str

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.key} {self._state.value}>"

    @property
    def server(self) -> str:
        """The name of the server that has set it aside."""
        return self._server.address.name

    @property
    def lost(self) -> bool:
        """Whether the item went back, or was deleted, without this worker."""
        return self._state is ReadState.LOST

    async def expires_s(self) -> float | None:
        """See OpenRead. None: the memcache protocol does not tell the expiry of an item."""
        return None

    async def turn(self) -> None:
        """Returns at once: its connection settles it in any order."""
