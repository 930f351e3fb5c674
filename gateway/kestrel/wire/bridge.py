"""Resident greenlets, in which pymemcache's blocking calls run without blocking the event loop.

Owns how a greenlet is entered and left. Knows no socket, no protocol and no future: the caller knows what a call waits
for, and calls `resume` when the call can continue.

1. However a call ends, by a value or by any exception, the bridge reports it by its own marks. An exception that ended
   the greenlet would make the next switch return its own arguments, which looks like success.
2. A call is started only in a ready greenlet; a busy, failed or ended one raises BridgeError.
3. Only the greenlet itself can wait; only a waiting greenlet can be resumed.
4. An idle greenlet holds nothing: dropping the bridge ends it.
Context variables do not cross the bridge; a call gets everything in its arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from greenlet import getcurrent, greenlet


class BridgeError(RuntimeError):
    """A greenlet was entered or left where that is not allowed. A defect of the gateway, never an outcome."""


class Phase(Enum):
    """The states of a bridge's greenlet. READY -> RUNNING <-> WAITING, RUNNING -> READY, and finally ENDED."""

    READY = "ready"
    RUNNING = "running"
    WAITING = "waiting"
    ENDED = "ended"


_FINISHED = object()
_WAITING = object()


class Bridge:
    """Runs one call at a time in its greenlet. Used only by the thread that made it."""

    __slots__ = ("_greenlet", "error", "phase", "value")

    def __init__(self) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self.phase = Phase.RUNNING
        self._greenlet = greenlet(_serve)
        self._enter(self._greenlet.switch())

    def start(self, function: Callable[..., Any], args: tuple[Any, ...]) -> bool:
        """Runs `function(*args)` until it has ended (True; see `value` and `error`) or waits (False).

        Raises BridgeError if a call is in progress or the greenlet has ended.
        """
        if self.phase is not Phase.READY:
            raise BridgeError(f"a call was started in a greenlet that is {self.phase.value}")
        self.phase = Phase.RUNNING
        return self._enter(self._greenlet.switch(self, function, args))

    def resume(self) -> bool:
        """Continues the waiting call. Returns like `start`."""
        self._require_waiting("resumed")
        return self._enter(self._greenlet.switch())

    def throw(self, error: BaseException) -> bool:
        """Raises `error` where the call waits. Returns like `start`."""
        self._require_waiting("interrupted")
        return self._enter(self._greenlet.throw(error))

    def wait(self) -> None:
        """Leaves the greenlet until `resume` or `throw`. Called only from inside the running call."""
        if getcurrent() is not self._greenlet:
            raise BridgeError("only the greenlet of a call can wait")
        parent = self._greenlet.parent
        assert parent is not None
        parent.switch(_WAITING)

    def end(self) -> None:
        """Ends the greenlet, even in the middle of a call. Idempotent."""
        if self.phase is Phase.RUNNING:
            raise BridgeError("a running greenlet cannot be ended")
        self.phase = Phase.ENDED
        while not self._greenlet.dead:
            self._greenlet.throw()

    def _require_waiting(self, what: str) -> None:
        if self.phase is not Phase.WAITING:
            raise BridgeError(f"a greenlet that is {self.phase.value} was {what}")
        self.phase = Phase.RUNNING

    def _enter(self, mark: object) -> bool:
        if mark is _FINISHED:
            self.phase = Phase.READY
            return True
        if mark is _WAITING:
            self.phase = Phase.WAITING
            return False
        self.phase = Phase.ENDED
        raise BridgeError("the greenlet ended in the middle of a call")


def _serve() -> None:
    parent = getcurrent().parent
    assert parent is not None
    while True:
        bridge, function, args = parent.switch(_FINISHED)
        try:
            bridge.value = function(*args)
        except BaseException as error:  # noqa: BLE001  (rule 1: even an error that should end it goes to the caller)
            bridge.error = error
        del bridge, function, args
