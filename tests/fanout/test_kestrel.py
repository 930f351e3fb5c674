"""Fanout on a stand-in with the races of a real Kestrel: limits, full queues, servers without fanout, deletions."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import NotSupported, OutcomeUnknown, QueueFull, TooManySubscriptions
from gateway.kestrel.fanout import AGES_OUT
from tests.kestrel.standin import Manners, StandIn, darner, siberite
from tests.kestrel.support import client, until


def test_a_put_to_a_full_queue_with_children_has_an_unknown_outcome():
    """The children have the copy, so no other server is tried; without children the next server stores the item."""

    async def main():
        async with StandIn() as full, StandIn() as other, client(full.address, other.address) as kestrel:
            await kestrel.fanout.create("q+a", 6)
            full.max_items = other.max_items = 1
            for server in (full, other):
                server.append("q", b"")
            with pytest.raises(OutcomeUnknown):
                await kestrel.put("q", b"x")
            outcomes = await kestrel.put_many("q", [(b"y", 0), (b"z", 0)])
            assert [type(each) for each in outcomes] == [OutcomeUnknown] * 2
            sent = [sum(line.startswith("set q ") for line in server.log) for server in (full, other)]
            assert sorted(sent) in ([1, 2], [0, 3]), "each item went to one server only"
            for server in (full, other):
                server.append("p", b"")
            with pytest.raises(QueueFull):
                await kestrel.put("p", b"x")

    asyncio.run(main())


def test_subscriptions_are_limited_where_copies_may_be_lost():
    """The seventh is refused, on no server is it created, and those that exist may be created again."""

    async def main():
        async with StandIn() as one, StandIn() as two, client(one.address, two.address) as kestrel:
            for number in range(6):
                assert (await kestrel.fanout.create(f"q+c{number}", 6)).result
            with pytest.raises(TooManySubscriptions):
                await kestrel.fanout.create("q+more", 6)
            assert not (await kestrel.fanout.create("q+c0", 6)).result
            assert len(one.children("q")) == len(two.children("q")) == 6
            assert len((await kestrel.fanout.of("q")).result) == 6

    asyncio.run(main())


@pytest.mark.parametrize("manners", [darner, siberite])
def test_a_server_without_fanout_refuses(manners):
    """Before the child is created anywhere: on such a server it would be a queue like any other."""

    async def main():
        async with StandIn() as kestrel_server, StandIn(manners()) as imitator:
            async with client(kestrel_server.address, imitator.address) as kestrel:
                with pytest.raises(NotSupported):
                    await kestrel.fanout.create("q+a", 6)
                assert "q+a" not in kestrel_server.queues
                assert "q+a" not in imitator.queues

    asyncio.run(main())


def test_a_server_that_ages_queues_out_is_named_in_a_warning():
    """It has dropped queues by `maxQueueAge` before."""

    async def main():
        async with StandIn() as one, client(one.address) as kestrel:
            assert await kestrel.fanout.warnings() == []
            one.manners.aged_out = 2
            assert await kestrel.fanout.warnings() == [AGES_OUT]

    asyncio.run(main())


def test_a_poll_does_not_create_a_child_that_is_deleted_while_it_waits():
    """Its get ends with the deletion, and the next one asks first; on a server without the child it never begins."""

    async def main():
        async with StandIn() as one, StandIn() as two, client(one.address, two.address) as kestrel:
            await kestrel.fanout.create("q+a", 6)
            poll = kestrel.wait("q+a", 5)
            await until(lambda: one.waiters.get("q+a") and two.waiters.get("q+a"))
            one.delete("q+a")
            two.delete("q+a")
            await asyncio.sleep(0.3)
            assert "q+a" not in one.queues | two.queues
            assert await kestrel.wait("q+a", 0).result() is None
            assert "q+a" not in one.queues | two.queues
            poll.cancel()

    asyncio.run(main())


@pytest.mark.parametrize("children", [1, 6])
def test_a_deletion_under_load_is_final_and_loses_no_copy_of_others(children):
    """Puts that are being copied create the child again, so it is deleted until it stays away. While it is created and
    deleted, this worker puts nothing on the queue there."""

    async def main():
        manners = Manners(copying_s=0.004)
        async with StandIn(manners) as server, client(server.address) as kestrel:
            for number in range(children):
                await kestrel.fanout.create(f"q+c{number}", 6)
            stored = 0
            loading = True

            async def load() -> None:
                nonlocal stored
                while loading:
                    await kestrel.put("q", b"x")
                    stored += 1

            loads = [asyncio.create_task(load()) for _ in range(8)]
            for _ in range(3):
                before = stored
                await until(lambda: stored >= before + 16)  # noqa: B023 (called at once)
                await kestrel.fanout.delete("q+c0")
                assert "q+c0" not in server.queues
                await asyncio.sleep(0.05)
                assert "q+c0" not in server.queues
                await kestrel.fanout.create("q+c0", 6)
            loading = False
            await asyncio.gather(*loads)
            assert server.lost_copies == 0
            assert {len(server.queues[f"q+c{number}"]) for number in range(1, children)} <= {stored}

    asyncio.run(main())


def test_the_stand_in_has_the_races():
    """Without the gateway's care a deletion under load is undone, and copies to other children are lost."""

    async def main():
        async with StandIn(Manners(copying_s=0.004)) as server, client(server.address) as kestrel:
            for number in range(6):
                await kestrel.fanout.create(f"q+c{number}", 6)
            puts = [asyncio.create_task(kestrel.put("q", b"x")) for _ in range(200)]
            undone = 0
            while not (undone and server.lost_copies):
                stored = server.appended
                await until(lambda: server.appended > stored)  # noqa: B023 (called at once)
                server.delete("q+c5")
                await until(lambda: server.appended > stored + 7)  # noqa: B023
                undone += "q+c5" in server.queues
                server.create("q+c5")
            await asyncio.gather(*puts)

    asyncio.run(main())
