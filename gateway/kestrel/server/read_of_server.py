"""What the open reads of all protocols have in common: their server, their states and their end. Sends nothing."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from gateway.common.states import check_move
from gateway.kestrel.counters import Counters
from gateway.kestrel.server.server import Server


class ReadState(Enum):
    """The states of an open read."""

    HELD = "held"
    SETTLING = "settling"
    SETTLED = "settled"
    LOST = "lost"

    __hash__ = object.__hash__


HELD, SETTLING, SETTLED, LOST = ReadState
"""Looked up ten times an item, and an Enum is slow at that."""

MOVES: dict[ReadState, frozenset[ReadState]] = {
    HELD: frozenset({SETTLING, SETTLED, LOST}),
    SETTLING: frozenset({SETTLED}),
    SETTLED: frozenset(),
    LOST: frozenset(),
}


class ReadOfServer:
    """One item that the server has set aside. number: grows from each item taken to the next. tenant: for which it is
    set aside.
    """

    __slots__ = ("_callbacks", "_counters", "_server", "_state", "data", "key", "number", "tenant")

    def __init__(  # noqa: PLR0917 (one caller for each protocol)
        self, server: Server, counters: Counters, key: str, tenant: str, data: bytes, number: int
    ) -> None:
        self.key = key
        self.tenant = tenant
        self.data = data
        self.number = number
        self._server = server
        self._counters = counters
        self._state: ReadState = HELD
        self._callbacks: tuple[Callable[[], None], ...] = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.key} {self._state.value}>"

    @property
    def server(self) -> str:
        """The name of the server that has set it aside."""
        return self._server.address.name

    @property
    def lost(self) -> bool:
        """Whether the item went back, or was deleted, without this worker."""
        return self._state is LOST

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Calls `callback` once when the item is lost; at once if it is already lost."""
        if self._state is LOST:
            callback()
        else:
            self._callbacks += (callback,)

    def lose(self) -> None:
        """The item went back, or was deleted, without a command of this worker. Does nothing once one was sent."""
        if self._state is not HELD:
            return
        self._move(LOST)
        self._counters.lost_reads += 1
        callbacks, self._callbacks = self._callbacks, ()
        for callback in callbacks:
            callback()

    def _settled(self) -> None:
        """The command that was to settle it has ended. Idempotent."""
        if self._state is not SETTLED:
            self._move(SETTLED)
        self._callbacks = ()

    def _move(self, state: ReadState) -> None:
        """Makes one legal move. An open read that has ended no longer counts for its tenant."""
        if state not in MOVES[self._state]:
            check_move("an open read", MOVES, self._state, state)
        self._state = state
        if not MOVES[state]:
            self._server.room.let_go(self.tenant)

    async def expires_s(self) -> float | None:
        """See OpenRead. None: the memcache protocol does not tell the expiry of an item."""
        return None

    async def turn(self) -> None:
        """Returns at once: its connection settles it in any order."""
