"""Calls back the operations of a connection after a commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from gateway.broker.storage.batch import Ticket

Committed: TypeAlias = Callable[[str | None], None]
"""Called when a commit is over, with why it failed."""


class Commits:
    """The commits for which operations of one connection wait. on_empty: called when the last of them is over."""

    __slots__ = ("_waiting", "on_empty")

    def __init__(self) -> None:
        self._waiting: dict[Ticket, _Commit] = {}
        self.on_empty: Callable[[], None] = _nothing

    def __len__(self) -> int:
        return len(self._waiting)

    def after(self, ticket: Ticket, then: Committed) -> None:
        """Calls `then` when the commit is over; at once if it is."""
        if ticket.done:
            then(ticket.error)
            return
        commit = self._waiting.get(ticket)
        if commit is None:
            commit = self._waiting[ticket] = _Commit(ticket, self)
        commit.then.append(then)

    def over(self, ticket: Ticket, thens: list[Committed]) -> None:
        """A commit is over."""
        del self._waiting[ticket]
        for then in thens:
            then(ticket.error)
        if not self._waiting:
            self.on_empty()


class _Commit:
    """Implements gateway.broker.storage.batch.Holder."""

    __slots__ = ("_commits", "_ticket", "then")

    def __init__(self, ticket: Ticket, commits: Commits) -> None:
        self._ticket = ticket
        self._commits = commits
        self.then: list[Committed] = []
        ticket.holders[self] = None

    def release(self) -> None:
        self._commits.over(self._ticket, self.then)


def _nothing() -> None:
    pass
