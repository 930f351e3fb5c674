"""The operations of a multiplexed connection that have no answer yet, and when they end without one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeAlias

from gateway.common.multiplex.frames import Frame

TICK_S: Final = 0.02
"""Operations without an answer are looked for no more often than this."""
LATE_S, READ_S = 0.005, 0.02
"""A timer that is this late runs before the answers that have arrived are read, so it waits READ_S for them."""
OnFrame: TypeAlias = Callable[[Frame | None], None]
"""Called with the answer; with None if there is none."""


class PendingOperations:
    """One timer for all operations.

    operations: by id, the callback, when it is called without an answer, and whether a late answer calls it again.
    late: the callbacks of those whose time is over and which a late answer calls again. on_ended: called after some
    operations have ended without an answer.
    """

    __slots__ = ("_last_id", "_loop", "_on_ended", "_timeout_s", "_timer", "late", "operations")

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_s: float, on_ended: Callable[[], None]) -> None:
        self.operations: dict[int, tuple[OnFrame, float, bool]] = {}
        self.late: dict[int, OnFrame] = {}
        self._loop = loop
        self._timeout_s = timeout_s
        self._on_ended = on_ended
        self._last_id = 0
        self._timer: asyncio.TimerHandle | None = None

    def expect(self, then: OnFrame, timeout_s: float, *, also_late: bool = False, ids: int = 1) -> int:
        """The id of a new operation, the first of `ids` ones. timeout_s: its time, 0 for the usual one."""
        id_ = self._last_id + 1
        self._last_id += ids
        self.operations[id_] = then, self._loop.time() + (timeout_s or self._timeout_s), also_late
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_s, self._tick, self._loop.time() + self._timeout_s)
        return id_

    def expect_next(self, id_: int, then: OnFrame) -> None:
        """A part of an answer has come, and the next one comes with the id `id_`, in the usual time."""
        self.operations[id_] = then, self._loop.time() + self._timeout_s, False

    def close(self) -> list[OnFrame]:
        """Forgets every operation; returns the callbacks of those without an answer, in order."""
        if self._timer is not None:
            self._timer.cancel()
        callbacks = [then for then, *_ in self.operations.values()]
        self.operations.clear()
        self.late.clear()
        return callbacks

    def _tick(self, due_s: float) -> None:
        """Ends the operations whose time is over. The next time is not after that of any later operation."""
        self._timer = None
        now_s = self._loop.time()
        if now_s - due_s > LATE_S:
            self._timer = self._loop.call_later(READ_S, self._tick, now_s + READ_S)
            return
        operations = self.operations
        for id_ in [id_ for id_, (_, ends_s, _) in operations.items() if ends_s <= now_s]:
            if (found := operations.pop(id_, None)) is not None:
                then, _, also_late = found
                if also_late:
                    self.late[id_] = then
                then(None)
        self._on_ended()
        if operations and self._timer is None:
            first_s = min(ends_s for _, ends_s, _ in operations.values())
            due_s = max(now_s + TICK_S, min(first_s, now_s + self._timeout_s))
            self._timer = self._loop.call_later(due_s - now_s, self._tick, due_s)
