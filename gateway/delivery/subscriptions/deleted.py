"""Deleted subscriptions, and on which servers each is gone. On a server that was away, it is deleted when it returns.

Deletions are stored on Kestrel itself, in the control state that all workers and replicas share.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

from gateway.delivery.control.control import Control, EntryKind
from gateway.errors import BackendUnavailable, OutcomeUnknown

KEPT_S: Final = 30 * 86400
"""A server that was away for longer brings back what was deleted in the meantime."""
LEARN_S: Final = 1.0
MOST: Final = 1000
"""The oldest ones beyond are forgotten."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """at_s: when, in Unix time. on: the names of the servers on which the child is gone."""

    at_s: float
    on: frozenset[str]


def _pack(deletion: Deletion) -> Any:
    return {"at": deletion.at_s, "on": sorted(deletion.on)}


def _unpack(content: Any) -> Deletion:
    return Deletion(float(content["at"]), frozenset(map(str, content["on"])))


DELETIONS: Final[EntryKind[Deletion]] = EntryKind("deleted-subscription", _pack, _unpack)


class DeletedSubscriptions:
    """By Kestrel key. Implements gateway.kestrel.fanout.DeletedChildren."""

    def __init__(self, control: Control, clock: Callable[[], float] = time.time) -> None:
        self._control = control
        self._entries = control.view(DELETIONS)
        self._clock = clock

    async def learned(self) -> None:
        """Returns when what the servers remember now is known, or after LEARN_S."""
        await self._control.read_now(LEARN_S)

    def on(self, key: str) -> Collection[str] | None:
        """The names of the servers on which the child is gone; None if it was not deleted, or long ago."""
        deletion = self._entries.get(key)
        return None if deletion is None or self._clock() - deletion.at_s > KEPT_S else deletion.on

    async def add(self, key: str) -> None:
        """The child is to be deleted. Raises BackendUnavailable, OutcomeUnknown."""
        await self._entries.set(key, Deletion(self._clock(), frozenset()))
        for old in self._old():
            await self._entries.delete(old)

    async def seen(self, key: str, servers: Collection[str]) -> None:
        """The child is gone from these servers, too. If that cannot be stored, they delete it once more later."""
        await self.learned()
        deletion = self._entries.get(key)
        if deletion is None or deletion.on.issuperset(servers):
            return
        try:
            await self._entries.set(key, Deletion(deletion.at_s, deletion.on.union(servers)))
        except (BackendUnavailable, OutcomeUnknown):
            return

    async def forget(self, key: str) -> None:
        """The child is created again. Raises BackendUnavailable, OutcomeUnknown."""
        await self.learned()
        if self._entries.get(key) is not None:
            await self._entries.delete(key)

    async def generation(self, key: str) -> int | None:
        """Grows each time the child is created again after it was deleted; None: it cannot be told now.

        So a copy that was set aside before can be told from one of the new subscription with the same name.
        """
        await self.learned()
        if not self._control.fresh:
            return None
        return round(1000 * (self._entries.deleted_at(key) or 0.0))

    def _old(self) -> list[str]:
        newest = sorted(self._entries.items().items(), key=lambda each: -each[1].at_s)
        kept_from_s = self._clock() - KEPT_S
        return [key for number, (key, each) in enumerate(newest) if number >= MOST or each.at_s < kept_from_s]
