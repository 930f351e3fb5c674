"""A subscription that is deleted while a member returns: no worker copies it from that member to the others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection

from gateway.delivery.control.control import Control
from gateway.delivery.subscriptions.deleted import DeletedSubscriptions
from gateway.kestrel.client import Kestrel
from tests.kestrel.standin import StandIn
from tests.kestrel.support import client

KEY = "q+audit"


@contextlib.asynccontextmanager
async def worker(*addresses: str) -> AsyncIterator[tuple[Kestrel, DeletedSubscriptions]]:
    """A worker that knows what was stored when it started, and looks at the control state only when it must."""
    async with client(*addresses) as members:
        control = Control(members.each_member, "_control", eager=True)
        deleted = members.fanout.deleted = DeletedSubscriptions(control)
        await control.learned(1)
        yield members, deleted


async def returned(members: Kestrel, server: StandIn) -> None:
    """The worker brings the member up to date, as it does when the member returns."""
    link = members._servers.member(server.address)
    assert link is not None
    await members.fanout.prepare(link)


def test_a_worker_that_has_not_seen_the_deletion_yet():
    """Another worker has just deleted it on the member that stayed. It reads that before it copies, and deletes it on
    the member that was away."""

    async def main():
        async with StandIn() as stayed, StandIn() as away:
            async with worker(stayed.address, away.address) as (late, _):
                await late.fanout.create(KEY, 6)
                async with worker(stayed.address) as (other, deleted):
                    await deleted.add(KEY)
                    servers, _ = await other.fanout.delete(KEY)
                    await deleted.seen(KEY, servers)
                assert (KEY in stayed.queues, KEY in away.queues) == (False, True)
                await returned(late, away)
                assert (KEY in stayed.queues, KEY in away.queues) == (False, False)

    asyncio.run(main())


class DeletedAtLook:
    """A deletion that another worker stores just before the look with this number."""

    def __init__(self, look: int) -> None:
        self.left = look

    async def learned(self) -> None:
        self.left -= 1

    def on(self, key: str) -> Collection[str] | None:
        return None if self.left > 0 or key != KEY else frozenset()

    async def seen(self, key: str, servers: Collection[str]) -> None:
        """It is not asked about servers."""

    def outdated(self, server: str) -> Collection[str]:
        return ()

    async def renewed(self, key: str, server: str) -> None:
        """No server is outdated."""


def test_a_deletion_between_the_look_and_the_copy():
    """The other worker has deleted the child on a member before the copy came there: the copy is undone."""

    async def main():
        async with StandIn() as stayed, StandIn() as away, client(stayed.address, away.address) as members:
            away.create(KEY)
            await returned(members, away)
            assert KEY in stayed.queues, "without a deletion it is copied"
            stayed.delete(KEY)
            await returned(members, stayed)
            assert KEY in stayed.queues, "the member that returns gets it, too"
            for server in (stayed, away):
                stayed.delete(KEY)
                away.create(KEY)
                members.fanout.deleted = DeletedAtLook(2)
                members.fanout.forget([])
                await returned(members, server)
                assert KEY not in stayed.queues

    asyncio.run(main())


def test_a_worker_that_has_not_seen_the_deletion_yet_creates_it_again():
    """The deletion is over then: a member that returns keeps the child, and so do those that stayed."""

    async def main():
        async with StandIn() as stayed, StandIn() as away:
            async with worker(stayed.address, away.address) as (late, known):
                async with worker(stayed.address) as (_, deleted):
                    await deleted.add(KEY)
                await known.forget(KEY)
                await late.fanout.create(KEY, 6)
                assert await known.generation(KEY)
                async with worker(stayed.address, away.address) as (other, deleted):
                    assert deleted.on(KEY) is None
                    await returned(other, away)
                    assert (KEY in stayed.queues, KEY in away.queues) == (True, True)

    asyncio.run(main())


def test_a_child_that_is_created_again_while_its_deletion_is_made_up_for():
    """The member that returns has it in the end, whichever of the two came first there."""

    async def main():
        async with StandIn() as stayed, StandIn() as away:
            async with worker(stayed.address, away.address) as (members, deleted):
                for turns in range(0, 40, 4):
                    away.create(KEY)
                    await deleted.add(KEY)
                    making_up = asyncio.create_task(returned(members, away))
                    for _ in range(turns):
                        await asyncio.sleep(0.005)
                    await deleted.forget(KEY)
                    await members.fanout.create(KEY, 6)
                    await making_up
                    assert (KEY in stayed.queues, KEY in away.queues) == (True, True), turns
                    stayed.delete(KEY)
                    members.fanout.forget([])

    asyncio.run(main())
