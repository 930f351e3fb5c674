"""The health of a server: its state, what may be asked of it in that state, and why. No I/O: callers report events.

1. UP, READONLY, QUIESCENT: a connection was made and answered, and `status` says which. DOWN: it was lost.
2. Each change of the state is one log line.

Source: kestrel-wire.md, "Names and errors": `status`, and the answers of a server that refuses.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from gateway.errors import BackendRefused, BackendUnavailable
from gateway.kestrel.address import Address
from gateway.kestrel.wire.capabilities import Capabilities
from gateway.kestrel.wire.failures import copied

log = logging.getLogger(__name__)


class Health(Enum):
    """The state of a server. CONNECTING: not known yet. CLOSED: no longer used.

    READONLY accepts no writes. QUIESCENT also delivers no items; its open reads can be settled.
    """

    CONNECTING = "connecting"
    UP = "up"
    READONLY = "readonly"
    QUIESCENT = "quiescent"
    DOWN = "down"
    CLOSED = "closed"

    __hash__ = object.__hash__

    @property
    def answers(self) -> bool:
        """Whether it is worth sending commands."""
        return self in (Health.UP, Health.READONLY, Health.QUIESCENT)

    @property
    def reads(self) -> bool:
        """Whether it delivers items."""
        return self in (Health.UP, Health.READONLY)


BY_STATUS = {
    "UP": Health.UP,
    "WRITEAVOID": Health.READONLY,  # it accepts items, but asks clients to send none
    "READONLY": Health.READONLY,
    "QUIESCENT": Health.QUIESCENT,
    "DOWN": Health.QUIESCENT,  # it is about to stop
}
"""The meaning of the answers to `status`. Source: twitter-archive/kestrel, ServerStatus.scala; WRITEAVOID as on
2.4.8."""


@dataclass(frozen=True, slots=True)
class ServerView:
    """A server as `/backends` shows it.

    server: its name, see Address.name. since: Unix time at which the current state began. leaving: it is no longer a
    member, but still has open reads. full: some tenant may have no further item here (ServerRoom, rule 1).
    """

    server: str
    address: str
    state: Health
    since: float
    version: str
    capabilities: Capabilities | None
    connections: dict[str, int]
    last_error: str
    leaving: bool = False
    full: bool = False


class ServerHealth:
    """The health of one server. on_change: called after each change of the state, except by `close`.

    answers, reads: of `state`. since: Unix time at which the state began. version: empty until the server has answered
    once; capabilities: None until then. peer: the address that answers, see Connection.peer.
    """

    def __init__(self, address: Address, on_change: Callable[[], None]) -> None:
        self._address = address
        self._on_change = on_change
        self.state = Health.CONNECTING
        self.answers = self.reads = False
        self.since = time.time()
        self.version = ""
        self.capabilities: Capabilities | None = None
        self.peer = ""
        self._said = Health.CONNECTING
        self._spared = False
        self._error = BackendUnavailable(f"{address.marked} has not answered yet")

    def __repr__(self) -> str:
        return f"<ServerHealth {self._address} {self.state.value}>"

    @property
    def error(self) -> BackendUnavailable:
        """Why it does not answer, as a new error to raise."""
        return copied(self._error)

    @property
    def last_error(self) -> str:
        """Why it is not UP; empty if it is."""
        return self._error.detail_for(operator=True) if self.state is not Health.UP else ""

    def introduced(self, version: str, capabilities: Capabilities, peer: str, said: Health) -> None:
        """It has answered the first questions on a new connection. said: its status."""
        self.version, self.capabilities, self.peer = version, capabilities, peer
        self._set_state(self._as_said(said))

    def lost(self, error: BackendUnavailable) -> None:
        """It does not answer, for this reason."""
        self._error = error
        if self.state is not Health.DOWN:
            self._set_state(Health.DOWN)

    def has_said(self, said: Health) -> None:
        """The server's answer to `status`."""
        state = self._as_said(said)
        if self.answers and self.state is not state:
            self._set_state(state)

    def spare_writes(self, spared: bool) -> None:
        """With `spared` it counts as READONLY although it accepts items."""
        if spared is not self._spared:
            self._spared = spared
            self.has_said(self._said)

    def close(self, error: BackendUnavailable) -> None:
        """It is no longer used, for this reason."""
        self.state = Health.CLOSED
        self.answers = self.reads = False
        self._error = error

    def _as_said(self, said: Health) -> Health:
        self._said = said
        return Health.READONLY if self._spared and said is Health.UP else said

    def _set_state(self, state: Health) -> None:
        address = self._address
        if state is Health.DOWN:
            log.warning("Kestrel at %s is down: %s", address, self._error.detail_for(operator=True))
        elif state is Health.UP:
            log.info("Kestrel at %s is up (%s)", address, self.version)
        else:
            why = ": it is registered for reading only" if state is not self._said else ""
            self._error = BackendRefused(f"{address.marked} is {state.value}{why}")
            log.warning("Kestrel at %s is %s (%s)", address, state.value, self.version)
        self.state = state
        self.answers, self.reads = state.answers, state.reads
        self.since = time.time()
        self._on_change()
