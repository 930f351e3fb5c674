"""How a server stands, and what may be asked of it then. Pure values.

Source: kestrel-wire.md, "Names and errors": `status`, and what a server that refuses says.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from gateway.kestrel.wire.capabilities import Capabilities


class Health(Enum):
    """What a server does. CONNECTING: not known yet; CLOSED: we do not want it any more.

    READONLY takes no writes; QUIESCENT gives nothing out either and only settles what is set aside.
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
        """Whether commands are worth sending."""
        return self in (Health.UP, Health.READONLY, Health.QUIESCENT)

    @property
    def reads(self) -> bool:
        """Whether it gives out items."""
        return self in (Health.UP, Health.READONLY)


BY_STATUS = {
    "UP": Health.UP,
    "WRITEAVOID": Health.READONLY,  # it would take items, and asks for none
    "READONLY": Health.READONLY,
    "QUIESCENT": Health.QUIESCENT,
    "DOWN": Health.QUIESCENT,  # it is about to end
}
"""What the answer to `status` means. Source: twitter-archive/kestrel, ServerStatus.scala; WRITEAVOID seen on 2.4.8."""


@dataclass(frozen=True, slots=True)
class ServerView:
    """A server as `/backends` shows it.

    server: its name, see Address.name. since: Unix time of the present state. leaving: it is no member any more, and
    open reads end on it. full: it holds as many items for us as it may.
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
