"""Paused queues: none of their jobs is delivered, and everything else works. Knows no HTTP.

A request pauses a queue, until a time or until another request ends the pause; or a policy does. The requests are
entries of the control state, so every worker and replica knows them within a second, and a restart ends no pause.

1. A poll of a paused queue waits here, and no get of it is on a server. A poll that already waits on the servers when
   its queue is paused comes back here.
2. An item is given to no consumer before the control state was read, and not if it was last read more than
   control.FRESH_S ago: this process may have been stopped since. If no server can be read, the item goes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import Any, Final

from gateway.coverage import Coverage
from gateway.delivery.control.control import FRESH_S, Control
from gateway.delivery.control.entries import EntryKind
from gateway.delivery.poll_limits import HeldPoll, PollLimits
from gateway.delivery.queues.catalog import Catalog, Queue
from gateway.errors import BackendUnavailable, OutcomeUnknown, TooManyQueues

LEARN_S: Final = 2.0
"""How long an item waits for the control state; a server that delivers items answers a peek much earlier."""

MAX_PAUSED: Final = 100
"""Paused queues of a tenant, or of a deployment without tenants. All pauses are one item on Kestrel, of at most 100 KB
for each tenant then."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause by a request. since_s, until_s: Unix time; until_s None: until it is ended. reason: for people."""

    since_s: float
    until_s: float | None
    reason: str

    @property
    def over(self) -> bool:
        return self.until_s is not None and self.until_s <= time.time()


def _pack(pause: Pause) -> Any:
    return {"since": pause.since_s, "until": pause.until_s, "reason": pause.reason}


def _unpack(value: Any) -> Pause:
    until = value["until"]
    return Pause(float(value["since"]), None if until is None else float(until), str(value["reason"]))


PAUSE: Final[EntryKind[Pause]] = EntryKind("pause", _pack, _unpack)


class Pauses:
    """Which queues are paused. polls: those that wait now."""

    def __init__(self, control: Control, catalog: Catalog, polls: PollLimits) -> None:
        self._control = control
        self._entries = control.view(PAUSE)
        self._catalog = catalog
        self._polls = polls
        self._entries.on_change(self._changed)

    def of(self, queue: Queue) -> Pause | None:
        """The pause that a request has begun and that is not over."""
        pause = self._entries.get(queue.key)
        return None if pause is None or pause.over else pause

    def by_policy(self, queue: Queue) -> bool:
        """Whether the queue's policy pauses it, as the file says now."""
        return self._catalog.queue(queue.tenant, queue.name).policy.paused

    def paused(self, queue: Queue) -> bool:
        """Whether no job of the queue is delivered now: by its policy, or by a request."""
        if self._catalog.queue(queue.tenant, queue.name).policy.paused:
            return True
        pause = self._entries.get(queue.key)
        return pause is not None and not pause.over

    @property
    def fresh(self) -> bool:
        """Whether `paused` is what `paused_now` returns, because the control state was read recently."""
        return self._control.fresh

    async def paused_now(self, queue: Queue) -> bool:
        """Like `paused`, for an item that is about to be given to a consumer (rule 2).

        Raises BackendUnavailable if the control state must be read first and no server answers within LEARN_S.
        """
        if not self._control.fresh and not await self._control.read_again(LEARN_S):
            raise BackendUnavailable("this worker cannot read which queues are paused; try again")
        return self.paused(queue)

    async def paused_since(self, queue: Queue, leased_s: float) -> bool:
        """Like `paused_now`, for jobs that were leased at `leased_s` (monotonic) and not yet delivered: within FRESH_S
        of that they may be delivered.
        """
        return time.monotonic() - leased_s > FRESH_S and await self.paused_now(queue)

    async def begin(self, queue: Queue, until_s: float | None, reason: str) -> Coverage:
        """Pauses the queue, or changes its pause. Raises as ControlMap.set; TooManyQueues."""
        await self._control.refresh()  # another worker may have begun it just now
        current = self.of(queue)
        if current is None and self._count(queue.tenant) >= MAX_PAUSED:
            raise TooManyQueues(f"{MAX_PAUSED} queues are paused, which is the maximum; end a pause first")
        since_s = time.time() if current is None else current.since_s
        return await self._entries.set(queue.key, Pause(since_s, until_s, reason))

    def _count(self, tenant: str) -> int:
        """How many queues of the tenant requests have paused."""
        paused = 0
        for key, pause in self._entries.items().items():
            if not pause.over and (owner := self._catalog.owner_of(key)) is not None and owner.tenant == tenant:
                paused += 1
        return paused

    async def end(self, queue: Queue) -> Coverage:
        """Ends a pause that a request has begun.

        Returns how many servers have stored that; if none knows of a pause, how many were asked. Raises as
        ControlMap.delete; BackendUnavailable if none could be asked.
        """
        asked = await self._control.refresh()
        if self._entries.get(queue.key) is not None:
            return await self._entries.delete(queue.key)
        if not asked.asked:
            raise BackendUnavailable("no Kestrel server could be asked whether the queue is paused; try again")
        return asked

    async def forget(self, queue: Queue) -> None:
        """The queue was deleted: a queue that is created with the same name is not paused by a request."""
        await self._control.refresh()  # another worker may have begun one just now
        if self._entries.get(queue.key) is not None:
            with contextlib.suppress(BackendUnavailable, OutcomeUnknown):
                await self._entries.delete(queue.key)

    async def wait(self, queue: Queue, poll: HeldPoll, within_s: float) -> None:
        """Returns when the pause may have ended, when `poll` is woken, or after `within_s`."""
        pause = self.of(queue)
        if pause is not None and pause.until_s is not None and not self.by_policy(queue):
            within_s = min(within_s, pause.until_s - time.time())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, within_s)):
                await poll.result()

    @property
    def number(self) -> int:
        """How many queues requests have paused, of all tenants."""
        return sum(not pause.over for pause in self._entries.items().values())

    def queue(self, tenant: str, name: str) -> Queue:
        """The queue with its policy."""
        return self._catalog.queue(tenant, name)

    def policies_changed(self) -> None:
        """The policies of queues have changed."""
        for key in self._polls.keys:
            self._changed(key)

    def _changed(self, key: str) -> None:
        for poll, queue in self._polls.by_queue(key):
            if isinstance(poll, HeldPoll):
                poll.wake()
            elif self.paused(queue):
                poll.cancel()
