"""A server at its limit of leases: it is asked for nothing, others go on, and a waiting poll gets the next room."""

import asyncio

import pytest

from gateway.errors import TooManyLeases
from tests.kestrel.standin import StandIn
from tests.kestrel.support import client, until
from tests.lab.examples import examples


def gets(server):
    """How many items the server was asked for."""
    return sum(line.startswith("get ") and "/open" in line for line in server.log)


@pytest.mark.parametrize("timeout_s", [0, 20])
def test_a_full_server_is_not_asked_until_a_lease_ends(timeout_s):
    """Who comes is refused at once, without a get; the next one after a lease has ended is served."""

    async def main():
        async with StandIn() as server, client(server.address, max_server_leases=2) as kestrel:
            for item in b"abc":
                server.append("q", bytes([item]))
            first, second = [await kestrel.wait("q", timeout_s).result() for _ in range(2)]
            assert kestrel.backends()[0].full
            asked = gets(server)
            with pytest.raises(TooManyLeases):
                await kestrel.wait("q", timeout_s).result()
            assert gets(server) == asked
            await first.confirm()
            assert not kestrel.backends()[0].full
            third = await kestrel.wait("q", timeout_s).result()
            assert third.data == b"c"
            second.give_back()
            await third.abort()

    asyncio.run(main())


def test_parked_polls_wait_on_and_get_the_room_that_comes():
    """Beyond the cap jobs stay on the queue; each lease that ends lets one poll go."""

    async def main():
        async with StandIn() as server, client(server.address, max_server_leases=2) as kestrel:
            polls = [asyncio.ensure_future(kestrel.wait("q", 20).result()) for _ in range(4)]
            await until(lambda: len(server.waiters.get("q", ())) == 2)
            for item in b"abcd":
                server.append("q", bytes([item]))
            reads = [await polls[0], await polls[1]]
            await until(lambda: sorted(server.queues["q"]) == [b"c", b"d"])
            assert not polls[2].done()
            assert server.held("q") == 2
            for number in (2, 3):
                await reads.pop(0).confirm()
                async with asyncio.timeout(15):
                    reads.append(await polls[number])
            assert sorted(read.data for read in reads) == [b"c", b"d"]
            assert server.confirmed == [("q", b"a"), ("q", b"b")]
            for read in reads:
                await read.abort()

    asyncio.run(main())


def test_other_servers_go_on():
    """A full one is left out: its jobs stay, and an empty answer of the others says that it was not asked."""

    async def main():
        async with (
            StandIn() as one,
            StandIn() as two,
            client(one.address, two.address, max_server_leases=1) as kestrel,
        ):
            one.append("q", b"one")
            mine = await kestrel.wait("q", 5).result()
            one.append("q", b"stays")
            poll = kestrel.wait("q", 0)
            assert await poll.result() is None
            assert str(poll.coverage) == "1/2"
            poll = kestrel.wait("q", 20)
            waiting = asyncio.ensure_future(poll.result())
            await until(lambda: two.waiters.get("q"))
            two.append("q", b"two")
            other = await waiting
            assert other.data == b"two"
            with pytest.raises(TooManyLeases):
                await kestrel.wait("q", 20).result()
            assert list(one.queues["q"]) == [b"stays"]
            await other.abort()
            await mine.abort()

    asyncio.run(main())


def test_a_wait_that_a_full_server_cut_short_is_no_empty_queue():
    """There is a job, and no room for it until the poll ends: that is no 204."""

    async def main():
        async with StandIn() as server, client(server.address, max_server_leases=1) as kestrel:
            polls = [kestrel.wait("q", wait_s) for wait_s in (5, 0.2)]
            first, second = [asyncio.ensure_future(poll.result()) for poll in polls]
            await until(lambda: len(server.waiters.get("q", ())) == 1)
            server.append("q", b"a")
            server.append("q", b"b")
            read = await first
            with pytest.raises(TooManyLeases):
                await second
            await read.abort()

    asyncio.run(main())


def test_room_is_offered_in_turns():
    """Forty queues with a poll each and room for one lease: all are served, and a place costs few gets."""
    count = 40

    async def main():
        async with StandIn() as server, client(server.address, max_server_leases=1) as kestrel:
            polls = [asyncio.ensure_future(kestrel.wait(f"q{i}", 20).result()) for i in range(count)]
            await until(lambda: sum(map(len, server.waiters.values())) == count)
            for i in range(count):
                server.append(f"q{i}", b"job")
            left = set(polls)
            async with asyncio.timeout(10):
                while left:
                    done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                    for each in done:
                        assert sum(server.held(key) for key in server.queues) <= 5
                        await each.result().confirm()
            assert len(server.confirmed) == count
            assert gets(server) <= count * 5

    asyncio.run(main())


def test_a_place_is_not_asked_for_many_times():
    """A backlog, fifty polls and room for two: a job that is taken has cost two gets at most."""
    count = 50

    async def main():
        async with StandIn() as server, client(server.address, max_server_leases=2) as kestrel:
            polls = [asyncio.ensure_future(kestrel.wait("q", 20).result()) for _ in range(count)]
            await until(lambda: len(server.waiters.get("q", ())) >= 2)
            for _ in range(count):
                server.append("q", b"job")
            left = set(polls)
            async with asyncio.timeout(10):
                while left:
                    done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                    for each in done:
                        await each.result().confirm()
            assert len(server.confirmed) == count
            assert gets(server) <= 2 * count

    asyncio.run(main())


def test_an_item_that_is_lost_makes_room():
    """Leases that end with their connections count no more."""

    async def main():
        async with StandIn() as server, client(server.address, max_server_leases=1) as kestrel:
            server.append("q", b"a")
            await kestrel.wait("q", 5).result()
            await server.stop()
            await until(lambda: not kestrel.backends()[0].full)
            await server.open()
            async with asyncio.timeout(20):
                read = await kestrel.wait("q", 5).result()
            assert read.data == b"a"
            await read.abort()

    asyncio.run(main())


def test_servers_that_are_full_in_turns_are_never_called_unreachable():
    """Room comes and goes while several ask: each gets an item, an empty answer, or an error that there is no room."""

    async def main():
        async with (
            StandIn() as one,
            StandIn() as two,
            client(one.address, two.address, max_server_leases=1, kestrel_pool_size=1) as kestrel,
        ):
            for server in (one, two):
                for key in "abc":
                    server.append(key, b"job")
            refused = 0

            async def ask(key, wait_s):
                nonlocal refused
                for _ in range(examples(50)):
                    try:
                        read = await kestrel.wait(key, wait_s).result()
                    except TooManyLeases:
                        refused += 1
                        await asyncio.sleep(0)
                    else:
                        if read is not None:
                            read.start_abort(lambda _: None)

            async with asyncio.timeout(20):
                await asyncio.gather(*(ask(key, wait_s) for key in "abc" for wait_s in (0, 0, 0.001, 0.005, 0.02)))
            assert refused

    asyncio.run(main())


def test_a_server_is_full_for_one_tenant_and_not_for_another():
    """A tenant with its share under lease gets no more, parked or not; the other gets jobs, and room serves waiters."""

    async def main():
        async with StandIn() as server, client(server.address, max_server_leases=4, share=0.5) as kestrel:
            for key in ("a", "a", "a", "b", "b", "b"):
                server.append(key, b"job")
            held = [await kestrel.wait("a", 5, "a").result() for _ in range(2)]
            for timeout_s in (5, 0):
                with pytest.raises(TooManyLeases, match="its share of the limit of 4"):
                    await kestrel.wait("a", timeout_s, "a").result()
            assert kestrel.backends()[0].full
            for _ in range(2):
                read = await kestrel.wait("b", 5, "b").result()
                await read.confirm()
            last = await kestrel.wait("b", 5, "b").result()
            with pytest.raises(TooManyLeases):
                await kestrel.wait("b", 0, "b").result()
            await held.pop().confirm()
            assert not kestrel.backends()[0].full
            third = await kestrel.wait("a", 5, "a").result()
            for read in (third, *held, last):
                await read.confirm()

    asyncio.run(main())
