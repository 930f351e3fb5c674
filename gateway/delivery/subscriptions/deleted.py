"""Deleted subscriptions, and on which servers each is deleted. An unreachable server deletes it when it returns.

A subscription may be created again before that. Then the servers that still have the old one are remembered one by one,
as outdated: each deletes it when it returns, and gets the new one. Each server has its own entry, so that workers
that do this on several servers at the same time do not overwrite each other's changes.

All of this is stored on Kestrel itself, in the control state that all workers and replicas share. Version 0.1.0 does
not know outdated servers, and keeps their entries.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.delivery.control.control import Control
from gateway.delivery.control.entries import EntryKind
from gateway.delivery.control.state import KEPT_S
from gateway.errors import BackendUnavailable, OutcomeUnknown

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
OUTDATED: Final[EntryKind[float]] = EntryKind("outdated-subscription", float, float)
"""By the child's key and a server's name, with a space between them: since when, in Unix time."""


class DeletedSubscriptions:
    """By Kestrel key. Implements gateway.kestrel.fanout.DeletedChildren."""

    def __init__(self, control: Control, clock: Callable[[], float] = time.time) -> None:
        self._control = control
        self._entries = control.view(DELETIONS)
        self._outdated = control.view(OUTDATED)
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
            for server in servers:
                await self.renewed(key, server)
            await self._entries.set(key, Deletion(deletion.at_s, deletion.on.union(servers)))
        except (BackendUnavailable, OutcomeUnknown):
            return

    async def forget(self, key: str) -> None:
        """The child is created again. Members that still have the old one are outdated from now on.

        Raises BackendUnavailable, OutcomeUnknown.
        """
        await self.learned()
        deletion = self._entries.get(key)
        if deletion is None:
            return
        if (gone := self.on(key)) is not None:
            for server in self._control.names.difference(gone):
                await self._outdated.set(f"{key} {server}", self._clock())
            for old in self._long_outdated():
                await self._outdated.delete(old)
        await self._entries.delete(key)

    def outdated(self, server: str) -> Collection[str]:
        """The keys of the children that exist, but were deleted and created again while the server was unreachable."""
        if not self._outdated.items():
            return ()  # polls ask often
        pairs = [name.rpartition(" ") for name in self._outdated.items()]
        return {key for key, _, name in pairs if name == server and self.on(key) is None}

    async def renewed(self, key: str, server: str) -> None:
        """The old child is deleted on this server. Raises BackendUnavailable, OutcomeUnknown."""
        if self._outdated.get(f"{key} {server}") is not None:
            await self._outdated.delete(f"{key} {server}")

    async def generation(self, key: str) -> int | None:
        """Grows each time the child is created again after it was deleted; None: it cannot be told now.

        So a copy that was set aside before can be told from one of the new subscription with the same name.
        """
        await self.learned()
        if not self._control.fresh:
            return None
        return round(1000 * (self._entries.deleted_at(key) or 0.0))

    def _old(self) -> list[str]:
        return self._beyond({key: deletion.at_s for key, deletion in self._entries.items().items()})

    def _long_outdated(self) -> list[str]:
        return self._beyond(self._outdated.items())

    def _beyond(self, at_s: Mapping[str, float]) -> list[str]:
        """The names that are not kept any more."""
        newest = sorted(at_s.items(), key=lambda each: -each[1])
        kept_from_s = self._clock() - KEPT_S
        return [name for number, (name, since_s) in enumerate(newest) if number >= MOST or since_s < kept_from_s]
