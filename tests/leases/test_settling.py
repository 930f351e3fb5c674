"""Delays, deletions, caps and the end of all: what becomes of leases in the registry, with its counts balanced."""

import asyncio
import time
from dataclasses import replace

import pytest

from gateway.errors import GatewayError, InvalidBody, QueueDeleted, TooManyLeases
from gateway.leases.lease import Disposition, Place, State
from tests.kestrel.support import until
from tests.leases.support import Item, ScriptedMover, balanced, opened, registry, within


def test_a_delayed_nack_leaves_when_it_is_due():
    """Out of sight until then; the nack may be repeated, another settlement conflicts."""

    async def work(tasks):
        leases = registry(tasks)
        item, mover, ended = Item(), ScriptedMover(), asyncio.Event()
        leases.leases.on_end(lambda lease: ended.set())
        lease = opened(leases, item, mover=mover)
        for _ in range(2):
            record = await leases.nack(lease.id, delay_s=0.05, reason="later")
            assert (record.state, record.place) == (State.DELAYED, Place.HEAD)
        for other in (leases.ack(lease.id), leases.reject(lease.id), leases.extend(lease.id, 50)):
            with pytest.raises(GatewayError) as conflict:
                await other
            assert conflict.value.code == "lease-settled"
        asked = Disposition(State.NACKED, None, "later", 0.05)
        assert (item.ends, mover.left) == ([], [asked])
        await asyncio.wait_for(ended.wait(), 20)
        assert (item.ends, mover.left) == (["moved"], [asked, replace(asked, delay_s=0.0)])
        assert (await leases.nack(lease.id)).place is Place.TAIL
        assert leases.leases.statistics().ended["nacked"] == 1

    within(work)


def test_a_job_on_a_holding_queue_has_no_lease():
    """The delayed nack has ended the lease; it is remembered with when the job is due, and counts as nacked."""

    async def work(tasks):
        leases = registry(tasks)
        item = Item()
        lease = opened(leases, item, mover=ScriptedMover(holds=True))
        began_s = time.time()
        record = await leases.nack(lease.id, delay_s=50)
        assert (record.state, record.place, record.as_asked) == (State.DELAYED, Place.TAIL, True)
        assert began_s + 49.9 < record.expires_at_s < time.time() + 50.1
        assert (item.ends, len(leases.leases)) == (["moved"], 0)
        assert (await leases.nack(lease.id, delay_s=1)).expires_at_s == record.expires_at_s
        assert not (await leases.nack(lease.id, asked=Place.HEAD)).as_asked
        with pytest.raises(GatewayError) as conflict:
            await leases.ack(lease.id)
        assert conflict.value.code == "lease-settled"
        assert (leases.leases.statistics().ended["nacked"], leases.leases.statistics().delayed) == (1, 0)

    within(work)


def test_the_deadline_of_a_lease_that_ended_as_delayed_is_over():
    """Its job is on a holding queue. Leases with later deadlines expire."""

    async def work(tasks):
        leases = registry(tasks)
        held = opened(leases, Item(), 0.05, ScriptedMover(holds=True))
        await leases.nack(held.id, delay_s=50)
        items = [Item() for _ in range(3)]
        for number, item in enumerate(items, 2):
            opened(leases, item, 0.05 * number)
        await until(lambda: not leases.leases)
        assert [item.ends for item in items] == [["moved"]] * 3

    within(work)


def test_an_error_at_one_deadline_delays_no_other(caplog):
    """The error is logged, and the lease stays with its open read."""

    async def work(tasks):
        leases = registry(tasks)
        broken, item = opened(leases, Item(), 0.05), Item()
        broken.mover = None
        opened(leases, item, 0.1)
        await until(lambda: len(leases.leases) == 1)
        assert item.ends == ["moved"]
        leases.close()

    within(work)


def test_a_last_attempt_is_not_delayed():
    """Where the job goes to the dead letters there is nothing to wait for."""

    async def work(tasks):
        leases = registry(tasks)
        lease = opened(leases, Item(), mover=ScriptedMover(last=True))
        assert (await leases.nack(lease.id, delay_s=100)).place is Place.DEAD

    within(work)


def test_nothing_outlives_kestrel_s_own_limit():
    """An extension beyond the longest lease is refused, and the lease stays as it was; a job that must stay set aside
    for its delay comes back then."""

    async def work(tasks):
        leases = registry(tasks, longest_s=10)
        lease = opened(leases, Item(), 5)
        with pytest.raises(InvalidBody):
            await leases.extend(lease.id, 11)
        assert (lease.state, leases.leases.statistics().delayed) == (State.HELD, 0)
        assert (await leases.nack(lease.id, delay_s=11)).expires_at_s < time.time() + 10.5
        leases.close()
        assert leases.leases.find(lease.id).place is Place.HEAD

    within(work)


def test_a_deleted_queue_takes_moves_under_way_along():
    """A move that has not copied yet ends as deleted; an ack under mover is left to its end."""

    async def work(tasks):
        leases = registry(tasks)
        gate, item, other = asyncio.Event(), Item(), Item()
        moving = opened(leases, item, mover=ScriptedMover(gate=gate))
        acking = opened(leases, other)
        nack = asyncio.create_task(leases.nack(moving.id))
        ack = asyncio.create_task(leases.ack(acking.id))
        await asyncio.sleep(0)
        assert await leases.drop_queue("q") == 1
        gate.set()
        with pytest.raises(QueueDeleted):
            await nack
        await ack
        assert (item.ends, other.ends) == (["back"], ["confirmed"])
        assert balanced(leases.leases.statistics())

    within(work)


def test_no_tenant_takes_all_leases_nor_all_memory():
    """Half of the leases, and half of the bytes; what ends makes room."""

    async def work(tasks):
        leases = registry(tasks, limit=4, share=0.5)
        taken = [opened(leases, Item(), 9000, tenant="a") for _ in range(2)]
        with pytest.raises(TooManyLeases, match="its share of the limit of 4") as full:
            opened(leases, Item(), tenant="a")
        assert full.value.retry_after_s == 30
        opened(leases, Item(), tenant="b")
        with pytest.raises(TooManyLeases):
            opened(leases, Item(), tenant="b")
        await leases.ack(taken[0].id)
        opened(leases, Item(), tenant="a")
        leases.close()

        leases = registry(tasks, limit_bytes=1000, share=0.5)
        big, small = Item(), Item()
        big.data, small.data = bytes(490), bytes(11)
        first = opened(leases, big, tenant="a")
        with pytest.raises(
            TooManyLeases,
            match="490 bytes on this worker; the next job would exceed its share of the limit of 1000 bytes",
        ):
            opened(leases, small, tenant="a")
        opened(leases, small, tenant="b")
        await leases.ack(first.id)
        opened(leases, small, tenant="a")
        leases.close()
        assert (leases.limits.bytes.held, leases.limits.shares.held) == (0, 0)

    within(work)


def test_too_many_leases_say_when_to_come_again():
    """By worker and by tenant; the time is the one until the first of them ends, half a minute at most."""

    async def work(tasks):
        leases = registry(tasks, limit=4, tenant_limit=2)
        first = opened(leases, Item(), 7, tenant="a")
        opened(leases, Item(), 20, tenant="a")
        with pytest.raises(TooManyLeases) as full:
            opened(leases, Item(), tenant="a")
        assert full.value.retry_after_s == 7
        third = opened(leases, Item(), 3, tenant="b")
        opened(leases, Item(), 9000, tenant="b")
        with pytest.raises(TooManyLeases) as full:
            leases.limits.check_room("c")
        assert full.value.retry_after_s == 3
        await leases.ack(third.id)
        await leases.ack(first.id)
        opened(leases, Item(), 9000, tenant="b")
        with pytest.raises(TooManyLeases) as full:
            leases.limits.check_room("b")
        assert full.value.retry_after_s == 30
        leases.limits.check_room("a")
        leases.close()
        assert leases.leases.statistics().ended["drained"] == 3
        leases.limits.check_room("b")

    within(work)


def test_a_settlement_cut_by_the_end_of_all_gives_back():
    """When the group's tasks are cancelled, nothing stays set aside."""

    async def work():
        item = Item()
        with pytest.raises(BaseExceptionGroup):  # noqa: PT012 (the group raises at its end)
            async with asyncio.TaskGroup() as tasks:
                leases = registry(tasks)
                lease = opened(leases, item, mover=ScriptedMover(gate=asyncio.Event()))
                request = asyncio.ensure_future(leases.nack(lease.id))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                raise RuntimeError("the end")
        with pytest.raises((GatewayError, asyncio.CancelledError)):
            await request
        assert item.ends == ["back"]
        assert leases.leases.statistics().ended["unknown"] == 1
        leases.close()

    asyncio.run(work())
