"""How many gets are open: as many as there are polls, and never more on a server than it has places for."""

import asyncio
import contextlib

import pytest

from gateway.errors import TooManyWaiters
from tests.kestrel.standin import StandIn
from tests.kestrel.support import client, until


def standing(server, key=None):
    """How many gets wait on the server, of one queue or of all."""
    return sum(len(waiters) for each, waiters in server.waiters.items() if key in (None, each))


def test_a_poll_stands_as_one_get_on_each_server(monkeypatch):
    """One poll on three servers: three gets; four: twelve; forty: as many as are allowed."""
    monkeypatch.setattr("gateway.kestrel.server.queue_gets.WAIT_S", 30.0)  # none ends and begins again meanwhile

    async def main():
        async with (
            StandIn() as one,
            StandIn() as two,
            StandIn() as three,
            client(one.address, two.address, three.address, kestrel_waits=8) as kestrel,
        ):
            waiters, many = [], (one, two, three)
            for polls, gets in ((1, 1), (4, 4), (40, 8)):
                while len(waiters) < polls:
                    waiters.append(kestrel.wait("q", 20))
                await until(lambda gets=gets: [standing(server) for server in many] == [gets] * 3)
                await asyncio.sleep(0.05)
                assert [standing(server) for server in many] == [gets] * 3
            for waiter in waiters:
                waiter.cancel()

    asyncio.run(main())


def test_places_are_shared_and_a_queue_without_any_is_refused(monkeypatch):
    """Half of the places are for first gets; a poll that finds none gets an error, and has one when another ends."""
    monkeypatch.setattr("gateway.kestrel.server.queue_gets.WAIT_S", 30.0)  # a second get that ends may not begin again

    async def main():
        async with StandIn() as server, client(server.address, max_waits=4) as kestrel:
            many = [kestrel.wait("a", 20) for _ in range(5)]
            await until(lambda: standing(server, "a") == 2)
            single = [kestrel.wait(key, 20) for key in "bc"]
            await until(lambda: [standing(server, key) for key in "abc"] == [2, 1, 1])
            for timeout_s in (5, 0):
                with pytest.raises(TooManyWaiters) as refusal:
                    await kestrel.wait("d", timeout_s).result()
                assert refusal.value.retry_after_s
            behind = kestrel.wait("b", 0.1)
            assert await behind.result() is None, "a queue that has a get needs no further place"
            server.append("c", b"x")
            await (await single[1].result()).confirm()
            server.append("d", b"y")
            await (await kestrel.wait("d", 5).result()).confirm()
            for waiter in (*many, single[0]):
                waiter.cancel()

    asyncio.run(main())


def test_a_server_without_a_place_is_left_out_of_the_coverage():
    """One of two was asked, and the answer says so; a waiting poll asks the other, too, once a place is free."""

    async def main():
        async with (
            StandIn() as one,
            StandIn() as two,
            client(one.address, two.address, max_waits=2) as kestrel,
        ):
            busy = kestrel._servers.members[0]
            busy.room.gets.take("", 2)
            server = one if str(busy.address) == one.address else two
            waiter = kestrel.wait("q", 0.1)
            assert await waiter.result() is None
            assert str(waiter.coverage) == "1/2"
            parked = kestrel.wait("q", 20)
            await until(lambda: standing(one) + standing(two) == 1)
            assert not standing(server)
            busy.room.return_gets("", 2)
            await until(lambda: standing(server) == 1)
            parked.cancel()

    asyncio.run(main())


def test_many_queues_never_take_more_connections_than_there_are_places():
    """150 queues on two servers with fifty places each: the rest is refused, and later served."""
    count, places = 150, 50

    async def main():
        async with (
            StandIn() as one,
            StandIn() as two,
            client(one.address, two.address, max_waits=places) as kestrel,
        ):
            polls = [asyncio.ensure_future(kestrel.wait(f"q{i}", 20).result()) for i in range(count)]
            await until(lambda: standing(one) == standing(two) == places)
            done = [poll for poll in polls if poll.done()]
            assert done
            assert all(isinstance(poll.exception(), TooManyWaiters) for poll in done)
            assert max(len(one.sessions), len(two.sessions)) <= places + 40
            for poll in polls:
                poll.cancel()
            await until(lambda: kestrel.statistics().open_waits == 0)
            for i in range(count):
                one.append(f"q{i}", b"x")
            for i in range(count):
                await (await kestrel.wait(f"q{i}", 5).result()).confirm()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*polls, return_exceptions=True)

    asyncio.run(main())


def test_no_tenant_has_all_places_of_a_server():
    """One waits on as many queues as it may; another one's polls have places, those that ask once, too."""

    async def main():
        async with StandIn() as server, client(server.address, max_waits=8, share=0.5) as kestrel:
            greedy = [kestrel.wait(f"a{i}", 20, "a") for i in range(4)]
            await until(lambda: sum(standing(server, f"a{i}") for i in range(4)) == 4)
            for timeout_s in (20, 0):
                with pytest.raises(TooManyWaiters, match="its share of the limit of 8"):
                    await kestrel.wait("a9", timeout_s, "a").result()
            server.append("b1", b"x")
            await (await kestrel.wait("b1", 0, "b").result()).confirm()
            polls = [kestrel.wait(f"b{i}", 20, "b") for i in range(2)]
            await until(lambda: [standing(server, key) for key in ("b0", "b1")] == [1, 1])
            server.append("b1", b"y")
            await (await polls[1].result()).confirm()
            server.append("a0", b"z")
            await (await greedy[0].result()).confirm()
            await until(lambda: standing(server, "a0") == 0)
            again = kestrel.wait("a9", 20, "a")
            await until(lambda: standing(server, "a9") == 1)
            for waiter in (*greedy[1:], polls[0], again):
                waiter.cancel()

    asyncio.run(main())
