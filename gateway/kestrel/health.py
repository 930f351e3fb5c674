"""The state of a server, and what may be asked of it in that state. Pure values.

Source: kestrel-wire.md, "Names and errors": `status`, and the answers of a server that refuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from gateway.kestrel.wire.capabilities import Capabilities


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
    member, but still has open reads. full: it holds as many items for this worker as it may.
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
