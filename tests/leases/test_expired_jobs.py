"""Jobs whose time is over, on the way to one whose time is not: dropped many at once, and nothing else is."""

import asyncio

import pytest

from gateway.delivery.expired_jobs import AT_ONCE
from gateway.errors import TooManyLeases
from tests.kestrel.standin import StandIn, silence
from tests.kestrel.support import until
from tests.lab.waiting import undisturbed
from tests.leases.rig import rig

OVER = b'{"specversion":"1.0","id":"%d","source":"s","type":"t","expires":"2020-01-01T00:00:00Z","data":1}'


def overs(server, count):
    """So many jobs whose time is over, on the server's queue."""
    for number in range(count):
        server.append("q", OVER % number)


def test_all_that_are_over_are_dropped_and_no_other(broker):
    """A hundred between two jobs: one poll each for the two, and nothing is left."""

    async def work(made):
        await made.put("dropped", b'"first"')
        assert not any(await made.kestrel.put_many("dropped", [(OVER % number, 0) for number in range(100)]))
        await made.put("dropped", b'"last"')
        for body in (b'"first"', b'"last"'):
            taken = await made.take("dropped")
            assert taken.job.payload == body
            await made.registry.ack(taken.lease.id)
        assert await made.take("dropped", timeout_s=0) is None
        assert made.registry.leases.statistics().delivered == 2
        async with asyncio.timeout(20):
            while await made.open_reads("dropped"):
                await asyncio.sleep(0.005)
        stats = (await made.kestrel.queue_stats("dropped")).queues.get("dropped")
        assert (stats.items, stats.total_items) == (0, 102)

    async def go():
        async with rig(f"127.0.0.1:{broker.port}") as made:
            await work(made)

    asyncio.run(go())


@undisturbed(0.3)
def test_the_next_job_does_not_wait_until_one_is_dropped():
    """Kestrel does not answer the confirm: the poll has its job all the same."""

    async def go():
        async with StandIn() as server, rig(server.address, kestrel_command_timeout_s=1) as made:
            overs(server, 1)
            server.manners.once("confirm", silence)
            server.append("q", b"live")
            async with asyncio.timeout(0.9):
                taken = await made.take("q")
            assert taken.lease.read.data == b"live"
            await made.registry.ack(taken.lease.id)
            await until(lambda: list(server.queues["q"]) == [OVER % 0], 5)  # unanswered: given back, not forgotten

    asyncio.run(go())


@undisturbed(0.5)
def test_a_bounded_number_is_dropped_at_once():
    """Where no confirm is answered the poll stops taking."""

    async def go():
        async with StandIn() as server, rig(server.address, kestrel_command_timeout_s=1.5) as made:
            overs(server, 2 * AT_ONCE)
            for _ in range(AT_ONCE):
                server.manners.once("confirm", silence)
            poll = asyncio.ensure_future(made.take("q"))
            await until(lambda: server.held("q") == AT_ONCE + 1)
            assert not poll.done()
            most = 0
            while not poll.done() and server.queues["q"]:
                most = max(most, server.held("q"))
                await asyncio.sleep(0.01)
            assert most <= AT_ONCE + 1
            poll.cancel()

    asyncio.run(go())


def test_a_server_s_cap_does_not_end_a_poll_that_drops():
    """Room for one: a job being dropped takes it, and the poll waits for it; if a lease takes it, that is an error."""

    async def go():
        async with StandIn() as server, rig(server.address, max_server_leases=1) as made:
            overs(server, 5)
            server.append("q", b"live")
            taken = await made.take("q", lease_s=7)
            assert taken.lease.read.data == b"live"
            with pytest.raises(TooManyLeases) as full:
                await made.take("q")
            assert full.value.retry_after_s == 7
            await made.registry.ack(taken.lease.id)

    asyncio.run(go())
