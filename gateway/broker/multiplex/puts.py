"""The puts of one multiplexed connection, and the queues that it creates.

While very many bytes wait to be written, puts wait here, and the connection gives no credit for items. They keep their
order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from gateway.broker.broker import Broker, PutOutcome, UnavailableError
from gateway.broker.multiplex.commits import Commits
from gateway.broker.queues.collection import IllegalNameError
from gateway.broker.storage.batch import Ticket
from gateway.common.multiplex.frames import Frame
from gateway.common.multiplex.messages import Code, PutEntry, unpack_put

Done: TypeAlias = Callable[[int, list[Code], str], None]
"""Answers an operation: its id, one code for each part, and why."""
_CODES: Final = {PutOutcome.ACCEPTED: Code.OK, PutOutcome.FULL: Code.FULL, PutOutcome.TOO_LARGE: Code.TOO_LARGE}


@dataclass(slots=True)
class _Put:
    """One message. outcomes: of the items that were given to the broker together: code, commit, the first item's id or
    0, and how many they are. given: how many they are in all."""

    id: int
    key: bytes
    entries: list[PutEntry]
    outcomes: list[tuple[Code, Ticket | None, int, int]] = field(default_factory=list)
    given: int = 0
    why: str = ""


class Puts:
    """Stores items. on_room: called when no put waits any more."""

    def __init__(self, broker: Broker, commits: Commits, done: Done, on_room: Callable[[], None]) -> None:
        self._broker = broker
        self._commits = commits
        self._done = done
        self._on_room = on_room
        self._waiting: deque[_Put] = deque()

    def __len__(self) -> int:
        """How many wait for the disk."""
        return len(self._waiting)

    def put(self, message: Frame) -> None:
        """PUT. Raises BrokenFrameError."""
        put = _Put(message.id, *unpack_put(message.payload, message.item))
        if self._waiting:
            self._waiting.append(put)
        else:
            self._store(put)

    def _store(self, put: _Put) -> None:
        """Stores the items; from where the disk is behind, later."""
        committing: Ticket | None = None
        groups = deque((put.entries[put.given :],))
        while groups:
            group, count = groups[0], len(groups[0])
            code, ticket, first_id = Code.REFUSED, None, 0
            try:
                outcome, ticket, first_id = self._broker.put_many(put.key, group)
            except IllegalNameError:
                code = Code.ILLEGAL_NAME
            except (UnavailableError, OverflowError) as exc:
                put.why = str(exc)
            else:
                if outcome is PutOutcome.CONGESTED:
                    assert ticket is not None
                    self._waiting.appendleft(put)
                    self._commits.after(ticket, self._store_waiting)
                    return
                code = _CODES[outcome]
            groups.popleft()
            if code is Code.FULL and count > 1:
                groups.extend([entry] for entry in group)  # some of them may have room
                continue
            put.outcomes.append((code, ticket, first_id, count))
            put.given += count
            committing = ticket or committing
        if committing is None:
            self._answer(put)
        else:
            self._commits.after(committing, lambda _: self._answer(put))

    def _answer(self, put: _Put) -> None:
        """Every commit of its items is over."""
        failed = next((ticket.error for _, ticket, *_ in put.outcomes if ticket is not None and ticket.error), "")
        codes = [code for outcome in put.outcomes for code in _after_commit(*outcome)]
        self._done(put.id, codes, put.why or failed or "")

    def _store_waiting(self, _error: str | None) -> None:
        """The disk has caught up: stores puts until it is behind again."""
        while self._waiting:
            count = len(self._waiting)
            self._store(self._waiting.popleft())
            if len(self._waiting) == count:
                return
        self._on_room()

    def create(self, message: Frame) -> None:
        """CREATE. A fanout child is on disk before the answer: it gets every later item of its parent."""
        id_ = message.id
        try:
            queue = self._broker.queues.get(message.payload)
        except IllegalNameError:
            self._done(id_, [Code.ILLEGAL_NAME], "")
            return
        except OverflowError as exc:
            self._done(id_, [Code.REFUSED], str(exc))
            return
        if queue.is_child and queue.creation is not None:
            self._commits.after(
                queue.creation, lambda error: self._done(id_, [Code.REFUSED if error else Code.OK], error or "")
            )
        else:
            self._done(id_, [Code.OK], "")

    def close(self) -> None:
        """The connection is over: puts that wait are forgotten; they have no answer."""
        self._waiting.clear()


def _after_commit(code: Code, ticket: Ticket | None, first_id: int, count: int) -> list[Code]:
    """The outcomes of items after their commit."""
    if ticket is not None and code is Code.OK:
        if ticket.error is not None:
            code = Code.REFUSED
        elif ticket.refused:
            return [Code.FULL if id_ in ticket.refused else code for id_ in range(first_id, first_id + count)]
    return [code] * count
