"""Fanout children on all members: created and deleted everywhere, and given to members that join or return.

Kestrel copies each item of a queue to the children that it has on that server. Servers know nothing of one another's
children, so a member without a child loses that child's copies.

1. A child is created on every member that answers. It is complete only if all members answered.
2. A member that was not connected gets no puts until it has the children that the other members have, and no longer
   has those that were deleted in the meantime (`prepare`, which gateway.kestrel.puts.batches calls).
3. While a child is created or deleted on a server, this worker puts nothing on its queue there, because Kestrel copies
   over a set of children that it does not lock.
4. A put that is being copied while a child is deleted creates the child again. So it is deleted until two checks in a
   row do not find it. Source: kestrel-wire.md, "Set": 37 of 60 deletions under load were undone.
5. Only children of this deployment's queues are created or deleted.
6. A child that is created again while this worker makes up for its deletion is created after that (`_changing`).
7. Before a child is copied from one member to another, and again afterwards, the deletions are read that other workers
   and replicas have stored until then. Otherwise a child that was deleted a moment ago would come back.
8. A member on which a child is outdated (deleted and created again while the member was unreachable) deletes the old
   one with its jobs, which is stored, and then gets the new one. One worker at a time does that (`turn`): another one,
   later, would delete new jobs. Until then polls get no job of the child there. One deletion is enough here: a put that
   is being copied makes a new child, which is wanted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.common.counted import counted
from gateway.coverage import Coverage, Covered
from gateway.errors import BackendRefused, BackendUnavailable, NotSupported, OutcomeUnknown, TooManySubscriptions
from gateway.kestrel import broadcast
from gateway.kestrel.link import ServerLink
from gateway.kestrel.puts.batches import PutHold
from gateway.kestrel.puts.placement import Placement
from gateway.names.namespace import FANOUT

log = logging.getLogger(__name__)

LOOK_S: Final = 0.05
"""The time between a deletion and a look whether the child is back."""
LOOKS: Final = 2
DELETIONS: Final = 4
DELETION_S: Final = 0.005
"""The time between deletions: a few times what Kestrel needs to copy a put."""
DELETE_S: Final = 5.0
"""After this time a child that always comes back is reported as not deleted."""
NAMES_S: Final = 1.0
"""Members that are prepared together share what the others have told, so that the start costs one question each."""
PATIENCE_S: Final = 1.0
"""How long a member that joins waits for the children of the others."""


AGES_OUT: Final = (
    "Kestrel deletes queues that are empty and unused for a while (maxQueueAge), so it may delete this subscription, "
    "too, which then gets no more jobs; read from it more often, or set no maxQueueAge"
)


class DeletedChildren(Protocol):
    """What is remembered of deleted children, beyond this process."""

    async def learned(self) -> None:
        """Returns when all that any program has stored until now is known, or cannot be known soon."""

    def on(self, key: str) -> Collection[str] | None:
        """The names of the members on which the child was seen to be gone; None if it was not deleted."""

    async def seen(self, key: str, servers: Collection[str]) -> None:
        """The deleted child is gone from these members, too."""

    def outdated(self, server: str) -> Collection[str]:
        """The keys of the children that exist, but were deleted and created again while this member was unreachable."""

    async def renewed(self, key: str, server: str) -> None:
        """The old child is deleted on this member. Raises BackendUnavailable, OutcomeUnknown."""


@dataclass(frozen=True, slots=True)
class Children:
    """The children of one queue on one server. atomic: see QueueStats."""

    keys: frozenset[str]
    atomic: bool


class Fanout:
    """The children on `members`. owns: whether a key is of this deployment.

    Set before it is used: placement, which stores the items; deleted; hold_elsewhere: a context within which the other
    workers of this gateway put nothing on the queue; turn: a context within which no other worker of this gateway
    creates or deletes the child, which raises BackendUnavailable. The callers of `create`, `ensure` and `delete` have
    it. renewed: called when a member no longer withholds its children.
    """

    def __init__(self, members: Callable[[], Sequence[ServerLink]], owns: Callable[[str], bool]) -> None:
        self._members = members
        self._owns = owns
        self._known: dict[ServerLink, frozenset[str]] = {}
        self._asked: dict[ServerLink, tuple[float, asyncio.Task[frozenset[str]]]] = {}
        self._holds: dict[str, list[asyncio.Task[None]]] = {}
        self._changing = asyncio.Lock()
        self.placement: Placement | None = None
        self.deleted: DeletedChildren | None = None
        self.hold_elsewhere: Callable[[str], PutHold] = lambda _: contextlib.nullcontext()
        self.turn: Callable[[str], contextlib.AbstractAsyncContextManager[None]] = lambda _: contextlib.nullcontext()
        self.renewed: Callable[[ServerLink], None] = lambda _: None

    async def of(self, key: str) -> Covered[frozenset[str]]:
        """The keys of the children of a queue, on any member that answers. Raises BackendUnavailable."""
        found, coverage = await broadcast.ask(self._members(), lambda server: _children(server, key))
        return Covered(frozenset[str]().union(*(each.keys for each in found)), coverage)

    async def create(self, key: str, limit: int) -> Covered[bool]:
        """Creates the child on every member that answers. The result: whether one of them did not have it.

        limit: the most children of a queue, where a server does not store an item with all copies or not at all.
        Raises: NotSupported, TooManySubscriptions; then no member was asked to create it. BackendUnavailable;
        OutcomeUnknown.
        """
        members = self._members()
        for server in members:
            capabilities = server.health.capabilities
            if capabilities is not None and not capabilities.fanout:
                raise NotSupported(f"{server.address.marked} ({capabilities.software}) has no fanout")
        parent = key.partition(FANOUT)[0]
        found, _ = await broadcast.ask(members, lambda server: _children(server, parent))
        children = frozenset[str]().union(*(each.keys for each in found))
        if key not in children and len(children) >= limit and any(each.keys and not each.atomic for each in found):
            raise TooManySubscriptions(
                f"the queue has {counted(len(children), 'subscription')}, and the maximum is {limit} "
                "(--kestrel-max-subscriptions); delete one first"
            )

        async def create(server: ServerLink) -> bool:
            if key in _outdated(self.deleted, server):
                await self._renew(server, key)
            elif key in await server.stats([key]):
                return False
            else:
                async with self._held(server, parent):
                    await _create(server, [key])
            self._known[server] = self._known.get(server, frozenset()) | {key}
            return True

        async with self._changing, self._held_elsewhere(parent, found):
            made, coverage = await broadcast.ask(members, create)
        return Covered(any(made), coverage)

    async def ensure(self, key: str) -> int:
        """Creates the child where it is missing, for another worker; returns how many members do not have it.

        Raises: BackendUnavailable, OutcomeUnknown.
        """
        members = self._members()

        async def create(server: ServerLink) -> None:
            if key not in await server.stats([key]):
                await _create(server, [key])

        if any(key in _outdated(self.deleted, server) for server in members):
            await self._learn_deletions()
        current = [server for server in members if key not in _outdated(self.deleted, server)]
        async with self._changing:
            _, coverage = await broadcast.ask(current, create)
        return len(members) - coverage.asked

    async def delete(self, key: str) -> tuple[list[str], Coverage]:
        """Deletes the child with its open reads on every member that answers. Returns the names of these members.

        Raises: BackendUnavailable; OutcomeUnknown, also if the child comes back again and again.
        """
        members = self._members()
        parent = key.partition(FANOUT)[0]
        found, _ = await broadcast.ask(members, lambda server: _children(server, parent))

        async def delete(server: ServerLink) -> str:
            await self._delete(server, key)
            self._known[server] = self._known.get(server, frozenset()) - {key}
            return server.address.name

        async with self._held_elsewhere(parent, found):
            return await broadcast.ask(members, delete)

    async def prepare(self, server: ServerLink) -> None:
        """Brings the member up to date (rules 2, 6, 7 and 8). Raises BackendUnavailable, OutcomeUnknown."""
        others = [each for each in self._members() if each is not server and each.health.answers]
        asked = [self._names(other, NAMES_S) for other in others if _has_fanout(other)]
        mine = await asyncio.shield(self._names(server, 0))
        if not _has_fanout(server):
            return
        if asked:
            await asyncio.wait(asked, timeout=PATIENCE_S)
        known = {each: self._known[each] for each in self._members() if each is not server and each in self._known}
        if mine or any(known.values()):
            await self._learn_deletions()
        gone = {key for key in mine if self._is_gone(key, server)}
        if gone:
            async with self._changing:
                gone = await self._make_up_for(server, gone)
        mine |= await self._renew_outdated(server)
        self.renewed(server)
        kept = {key for key in mine - gone if not self._was_deleted(key)}
        wanted = {key for keys in known.values() for key in keys if not self._was_deleted(key)}
        self._known[server] = (mine - gone) | wanted
        if missing := await self._still_wanted(sorted(wanted - mine), known):
            await self._copy(server, missing)
            children = counted(len(missing), "fanout child", "fanout children")
            log.info("Kestrel at %s now has %s of other members, too", server.address, children)
        for other, theirs in known.items():
            if other.health.answers and (missing := sorted(kept - theirs)):
                try:
                    await self._copy(other, missing)
                except (BackendUnavailable, OutcomeUnknown) as error:
                    log.warning(
                        "fanout children are missing on Kestrel at %s: %s",
                        other.address,
                        error.detail_for(operator=True),
                    )

    async def _make_up_for(self, server: ServerLink, keys: Collection[str]) -> set[str]:
        """Deletes children that were deleted while the member was unreachable, and makes again those that were created
        again meanwhile. Returns those that it does not have."""
        await self._learn_deletions()
        keys = [key for key in keys if self._is_gone(key, server)]
        for key in keys:
            log.info(
                "%s was deleted while Kestrel at %s was unreachable, and is now deleted there, too", key, server.address
            )
            await self._delete(server, key)
        await self._learn_deletions()
        gone = set(filter(self._was_deleted, keys))
        if again := sorted(set(keys) - gone):
            await _create(server, again)
        if self.deleted is not None:
            for key in gone:
                await self.deleted.seen(key, [server.address.name])
        return gone

    async def _renew_outdated(self, server: ServerLink) -> set[str]:
        """Rule 8, for all children. Returns those that the member has now."""
        renewed = set()
        for key in _outdated(self.deleted, server):
            async with self.turn(key):
                await self._learn_deletions()
                if key in _outdated(self.deleted, server):
                    log.info(
                        "%s was deleted and created again while Kestrel at %s was unreachable", key, server.address
                    )
                    async with self._changing:
                        await self._renew(server, key)
                    renewed.add(key)
        return renewed

    async def _renew(self, server: ServerLink, key: str) -> None:
        """Replaces the child by a new one without jobs (rule 8)."""
        assert self.deleted is not None
        async with self._held(server, key.partition(FANOUT)[0]):
            await server.delete(key)
            await self.deleted.renewed(key, server.address.name)
            await _create(server, [key])
        self.renewed(server)

    async def _copy(self, server: ServerLink, keys: Sequence[str]) -> None:
        """Creates children that another member has, and deletes those of them that are deleted at the same time: a
        deletion is stored before the first server deletes the child, so one that did not find it here is known now.
        """
        await _create(server, keys)
        await self._learn_deletions()
        for key in filter(self._was_deleted, keys):
            await self._delete(server, key)
            self._known[server] = self._known.get(server, frozenset()) - {key}

    async def _learn_deletions(self) -> None:
        if self.deleted is not None:
            await self.deleted.learned()

    async def warnings(self) -> list[str]:
        """What may make a new child disappear, as sentences. Servers that do not answer say nothing."""
        members = [server for server in self._members() if server.health.answers]
        if any(await asyncio.gather(*(server.deletes_idle_queues() for server in members))):
            return [AGES_OUT]
        return []

    async def hold(self, key: str, for_s: float) -> None:
        """Returns when no put of the queue is on its way to any member; they wait until `release`, at most `for_s`.

        For another worker of this gateway that creates or deletes a child.
        """
        held = asyncio.Event()
        self._holds.setdefault(key, []).append(asyncio.create_task(self._hold(key, for_s, held)))
        await held.wait()

    def release(self, key: str) -> None:
        """Ends the oldest hold of the queue."""
        if holds := self._holds.get(key):
            holds.pop(0).cancel()
            if not holds:
                del self._holds[key]

    async def _hold(self, key: str, for_s: float, held: asyncio.Event) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(for_s), contextlib.AsyncExitStack() as stack:
                try:
                    for server in self._members():
                        await stack.enter_async_context(self._held(server, key))
                finally:
                    held.set()
                await asyncio.Event().wait()

    def forget(self, members: Collection[ServerLink]) -> None:
        """Keeps what is known of these members only."""
        self._known = {server: keys for server, keys in self._known.items() if server in members}
        self._asked = {server: asked for server, asked in self._asked.items() if server in members}

    async def close(self) -> None:
        """Ends the questions and holds that are in progress."""
        tasks = [task for _, task in self._asked.values()] + [task for holds in self._holds.values() for task in holds]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _still_wanted(self, keys: list[str], known: Mapping[ServerLink, frozenset[str]]) -> list[str]:
        """Those of the keys that another member has at this moment, or had when it answered last."""
        if not keys:
            return []
        found: set[str] = set()
        for other, theirs in known.items():
            try:
                found.update(await other.stats(keys) if other.health.answers else theirs)
            except BackendUnavailable:
                found |= theirs
        return [key for key in keys if key in found]

    def _was_deleted(self, key: str) -> bool:
        return self.deleted is not None and self.deleted.on(key) is not None

    def _is_gone(self, key: str, server: ServerLink) -> bool:
        """Whether the child was deleted while the member was unreachable. If it was gone there, another program made it
        again."""
        gone = None if self.deleted is None else self.deleted.on(key)
        return gone is not None and server.address.name not in gone

    def _names(self, server: ServerLink, within_s: float) -> asyncio.Task[frozenset[str]]:
        """The children on the server, as it has told within that time; otherwise it is asked."""
        now_s = time.monotonic()
        asked_s, task = self._asked.get(server, (-math.inf, None))
        if task is None or now_s - asked_s > within_s or (task.done() and task.exception() is not None):
            task = asyncio.create_task(self._ask(server), name=f"fanout children on {server.address}")
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._asked[server] = now_s, task
        return task

    async def _ask(self, server: ServerLink) -> frozenset[str]:
        keys = frozenset(each for each in await server.names() if FANOUT in each and self._owns(each))
        self._known[server] = keys
        return keys

    async def _delete(self, server: ServerLink, key: str) -> None:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + DELETE_S
        absent = 0
        async with self._held(server, key.partition(FANOUT)[0]):
            await _delete_repeatedly(server, key)
            while absent < LOOKS:
                await asyncio.sleep(LOOK_S)
                if key not in await server.stats([key]):
                    absent += 1
                elif loop.time() > until_s:
                    raise OutcomeUnknown(
                        f"a memcache client uses the subscription, so {server.address.marked} creates it again after "
                        "each deletion; stop that client, and delete the subscription again"
                    )
                else:
                    absent = 0
                    await _delete_repeatedly(server, key)

    def _held_elsewhere(self, key: str, found: Sequence[Children]) -> PutHold:
        """Rule 3 for the other workers, where a server does not lock the set of children."""
        unlocked = any(each.keys and not each.atomic for each in found)
        return self.hold_elsewhere(key) if unlocked else contextlib.nullcontext()

    def _held(self, server: ServerLink, key: str) -> PutHold:
        assert self.placement is not None
        return self.placement.hold(server, key)


async def _delete_repeatedly(server: ServerLink, key: str) -> None:
    """A put of another gateway that is being copied creates the child again. Puts that begin after that are copied to
    it, too, and never end if the next deletion comes late. So it comes soon, when few of them have begun."""
    for _ in range(DELETIONS):
        await server.delete(key)
        await asyncio.sleep(DELETION_S)


def _outdated(deleted: DeletedChildren | None, server: ServerLink) -> Collection[str]:
    return () if deleted is None else deleted.outdated(server.address.name)


def _has_fanout(server: ServerLink) -> bool:
    capabilities = server.health.capabilities
    return capabilities is None or capabilities.fanout


async def _children(server: ServerLink, key: str) -> Children:
    """The children of a queue. A server lists them with the queue; if it does not have the queue, by their names."""
    stats = (await server.stats([key])).get(key)
    if stats is not None:
        return Children(stats.children, stats.atomic)
    keys = frozenset(each for each in await server.names() if each.startswith(key + FANOUT))
    found = await server.stats(sorted(keys)) if keys else {}
    return Children(keys, bool(keys) and all(each.atomic for each in found.values()))


async def _create(server: ServerLink, keys: Sequence[str]) -> None:
    """Creates the children, and sees that they exist."""
    for key in keys:
        await server.create(key)
    if missing := set(keys) - set(await server.stats(keys)):
        raise BackendRefused(f"{server.address.marked} did not create {counted(len(missing), 'subscription')}")
