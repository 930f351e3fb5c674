"""One poll of several queues on stand-ins of Kestrel: which queue is served, and what happens to the other items."""

import asyncio
import time
from collections import deque

import pytest

from gateway.errors import BackendUnavailable
from tests.kestrel.standin import StandIn, silence
from tests.kestrel.support import client, until
from tests.lab.waiting import undisturbed

KEYS = ["high", "mid", "low"]


def unnoticed(server: StandIn, key: str, *items: bytes) -> None:
    """Items that wake no wait, as on real Kestrel now and then."""
    server.queues.setdefault(key, deque()).extend(items)


async def waits(server: StandIn, *keys: str, count: int = 1) -> None:
    """Returns when waits for all these queues are on the server."""
    await until(lambda: all(len(server.waiters.get(key, ())) >= count for key in keys))


def test_the_earlier_queues_are_asked_again_before_a_later_one_is_served():
    """An item of `high` that no wait has brought wins over one of `low`, which goes back."""

    async def main():
        async with StandIn() as server, client(server.address, kestrel_waits=1) as kestrel:
            poll = asyncio.create_task(kestrel.wait_in_order(KEYS, 20).result())
            await waits(server, *KEYS)
            unnoticed(server, "high", b"h")
            server.append("low", b"l")
            read = await asyncio.wait_for(poll, 20)
            assert (read.key, read.data) == ("high", b"h")
            await read.confirm()
            await until(lambda: list(server.queues["low"]) == [b"l"])
            read = await kestrel.wait_in_order(KEYS, 0).result()
            assert (read.key, read.data) == ("low", b"l")
            await read.confirm()

    asyncio.run(main())


def test_items_that_lost_go_back_in_order():
    """Several polls hold items of `low` at one instant, all lose to `high`, and `low` is as before."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            for round_number in range(20):
                polls = [asyncio.create_task(kestrel.wait_in_order(KEYS, 20).result()) for _ in range(4)]
                await waits(server, *KEYS, count=4)
                unnoticed(server, "high", *(b"h%d" % n for n in range(4)))
                for number in range(6):
                    server.append("low", b"l%d" % number)
                reads = await asyncio.wait_for(asyncio.gather(*polls), 20)
                assert sorted(read.data for read in reads) == [b"h%d" % n for n in range(4)], round_number
                for read in reads:
                    await read.confirm()
                await until(lambda: len(server.queues["low"]) == 6)
                assert list(server.queues["low"]) == [b"l%d" % n for n in range(6)]
                server.queues["low"].clear()

    asyncio.run(main())


@undisturbed(0.02)
def test_a_later_queue_waits_for_a_slow_server_and_not_for_a_silent_one():
    """A server that answers late is waited for; one that answers nothing is left out after 100 ms."""

    async def main():
        async with StandIn() as slow, StandIn() as other, client(slow.address, other.address) as kestrel:
            poll = asyncio.create_task(kestrel.wait_in_order(KEYS, 20).result())
            await waits(slow, *KEYS)
            await waits(other, *KEYS)
            unnoticed(slow, "mid", b"m")
            slow.delay_s = 0.05
            other.append("low", b"l")
            read = await asyncio.wait_for(poll, 20)
            assert read.key == "mid"
            await read.confirm()
            slow.delay_s = 0
            read = await kestrel.wait_in_order(KEYS, 5).result()
            assert read.key == "low"
            await read.confirm()

            poll = asyncio.create_task(kestrel.wait_in_order(KEYS, 20).result())
            await waits(slow, *KEYS)
            slow.manners.frozen = True
            began_s = time.monotonic()
            other.append("low", b"l")
            read = await asyncio.wait_for(poll, 20)
            assert read.key == "low"
            assert 0.05 < time.monotonic() - began_s < 1
            await read.confirm()
            slow.manners.frozen = False
            slow.thaw()

    asyncio.run(main())


@undisturbed(0.2)
def test_a_silent_server_costs_its_patience_once_and_not_for_each_queue(monkeypatch):
    """Of 60 queues the last one is served, or none within `timeout`: 60 times the patience would be 6 s and more."""
    monkeypatch.setattr("gateway.kestrel.polls.preferred.SILENT_S", 0.5)  # so that the other server is in time

    async def main():
        async with StandIn() as silent, StandIn() as other, client(silent.address, other.address) as kestrel:
            keys = [f"q{number}" for number in range(60)]
            silent.manners.frozen = True
            for timeout_s in (0.0, 5.0):
                other.append(keys[-1], b"x")
                began_s = time.monotonic()
                read = await kestrel.wait_in_order(keys, timeout_s).result()
                assert (read.key, time.monotonic() - began_s < 5) == (keys[-1], True)
                await read.confirm()
            for timeout_s in (0.0, 0.3):
                began_s = time.monotonic()
                poll = kestrel.wait_in_order(keys, timeout_s)
                assert await poll.result() is None
                assert time.monotonic() - began_s < 5
                assert str(poll.coverage) == "1/2"
            silent.thaw()

    asyncio.run(main())


def test_queues_that_answer_in_time_are_asked_one_after_the_other():
    """An item of a later queue is not even taken: it keeps its place without a give-back."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            for key in KEYS:
                server.append(key, key.encode())
            read = await kestrel.wait_in_order(KEYS, 1).result()
            assert read.key == "high"
            await read.confirm()
            assert not [line for line in server.log if line.startswith(("get mid", "get low"))]

    asyncio.run(main())


def test_a_poll_that_leaves_gives_everything_back():
    """Cancelled at any moment, and while it holds an item of a later queue: nothing is lost, and the order is kept."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            for steps in range(60):
                poll = kestrel.wait_in_order(KEYS, 20)
                result = asyncio.create_task(poll.result())
                if steps % 2:
                    await waits(server, *KEYS)
                server.append("low", b"1")
                server.append("low", b"2")
                for _ in range(steps):
                    await asyncio.sleep(0)
                if steps % 3:
                    poll.cancel()
                else:
                    result.cancel()
                (read,) = await asyncio.gather(result, return_exceptions=True)
                if read is not None and not isinstance(read, BaseException):
                    await read.abort()
                await until(lambda: list(server.queues["low"]) == [b"1", b"2"])
                server.queues["low"].clear()

    asyncio.run(main())


def test_an_item_that_is_lost_while_the_others_are_asked_is_waited_for_again():
    """Its connection breaks: the poll keeps its place."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            poll = asyncio.create_task(kestrel.wait_in_order(["high", "low"], 20).result())
            await waits(server, "high", "low")
            server.manners.once("get", silence)
            server.append("low", b"1")
            await until(lambda: server.held("low") == 1)
            for session in list(server.sessions):
                if session.held:
                    session.close()
            read = await asyncio.wait_for(poll, 20)
            assert (read.key, read.data) == ("low", b"1")
            await read.confirm()

    asyncio.run(main())


def test_without_a_server_it_fails_in_time():
    """As a poll of one queue."""

    async def main():
        async with StandIn() as server, client(server.address, kestrel_connect_timeout_s=0.2) as kestrel:
            await server.stop()
            await until(lambda: not kestrel.available)
            for timeout_s in (0, 0.3):
                with pytest.raises(BackendUnavailable):
                    await kestrel.wait_in_order(KEYS, timeout_s).result()

    asyncio.run(main())


def test_an_empty_wait_says_how_many_servers_were_asked():
    """A frozen server was not: the coverage says so."""

    async def main():
        async with StandIn() as one, StandIn() as two, client(one.address, two.address) as kestrel:
            poll = kestrel.wait_in_order(KEYS, 0)
            assert (await poll.result(), poll.coverage) == (None, None)
            one.manners.frozen = True
            poll = kestrel.wait_in_order(KEYS, 0.2)
            assert await poll.result() is None
            assert str(poll.coverage) == "1/2"
            one.manners.frozen = False
            one.thaw()

    asyncio.run(main())
