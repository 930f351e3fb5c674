"""The answers of one connection, in the order of its commands. Does no I/O.

1. An answer that depends on a commit leaves after the commit, and so do all answers behind it.
2. Answers that may be written are collected, so that those of many commands are one write.
"""

from __future__ import annotations

from collections import deque

from gateway.broker.memcache.codec import NOT_STORED
from gateway.broker.storage.batch import AnswerHolder, Ticket

HELD_BYTES = 1 << 20
HELD_ANSWERS = 2000


class Answers:
    """Answers that wait for a commit, and those that may be written. ready_bytes: the size of the latter."""

    __slots__ = ("_held_bytes", "_ready", "held", "ready_bytes")

    def __init__(self) -> None:
        self.held: deque[tuple[Ticket | None, int, bytes]] = deque()  # ticket, the item's id or 0, answer
        self._held_bytes = 0
        self._ready: list[bytes] = []
        self.ready_bytes = 0

    def __len__(self) -> int:
        """How many answers wait."""
        return len(self.held)

    @property
    def full(self) -> bool:
        """Whether so many answers wait that no further command should run."""
        return self._held_bytes > HELD_BYTES or len(self.held) > HELD_ANSWERS

    def add(self, data: bytes) -> None:
        """An answer that waits for no commit itself."""
        if self.held:
            self.held.append((None, 0, data))
            self._held_bytes += len(data)
        elif data:
            self._ready.append(data)
            self.ready_bytes += len(data)

    def add_settled(self, ticket: Ticket, data: bytes, item_id: int) -> None:
        """The answer of a command whose commit is over. item_id: of the item that it stored, or 0."""
        self.add(_outcome(ticket, item_id, data))

    def hold(self, ticket: Ticket, data: bytes, holder: AnswerHolder, item_id: int = 0) -> None:
        """Keeps the answer until the ticket is settled, when `holder` is released."""
        self.held.append((ticket, item_id, data))
        self._held_bytes += len(data)
        ticket.holders[holder] = None

    def release(self) -> str | None:
        """Makes settled answers ready to write. Returns why a commit failed; nothing after it may be answered then."""
        held = self.held
        while held:
            ticket, item_id, data = held[0]
            if ticket is not None:
                if not ticket.done:
                    break
                if ticket.error is not None:
                    self.held.clear()
                    self._held_bytes = 0
                    return ticket.error
            held.popleft()
            self._held_bytes -= len(data)
            if ticket is not None and ticket.refused:
                data = _outcome(ticket, item_id, data)
            if data:
                self._ready.append(data)
                self.ready_bytes += len(data)
        return None

    def take(self) -> bytes:
        """The answers that may be written, each returned once; empty if there are none."""
        ready = self._ready
        if not ready:
            return b""
        data = ready[0] if len(ready) == 1 else b"".join(ready)
        ready.clear()
        self.ready_bytes = 0
        return data

    def forget_ready(self) -> None:
        self._ready.clear()
        self.ready_bytes = 0

    def clear(self) -> None:
        """Drops all answers."""
        self.held.clear()
        self._held_bytes = 0
        self.forget_ready()


def _outcome(ticket: Ticket, item_id: int, data: bytes) -> bytes:
    """The answer after the ticket is settled; NOT_STORED if the disk could not store just that item."""
    return NOT_STORED if data and item_id in ticket.refused else data
