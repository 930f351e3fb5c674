"""Against the embedded broker in a process of its own: bursts, order, restarts, and what is left behind."""

import asyncio
import contextlib
import gc
import itertools
import os
import signal
from functools import partial

import pytest
import uvloop

from gateway.errors import BackendUnavailable, LeaseLost, OutcomeUnknown
from gateway.kestrel.wire.bridge import Bridge
from gateway.kestrel.wire.connection import Connection
from tests.kestrel.support import client, until
from tests.lab.examples import examples


def run(main):
    """On uvloop, as the service runs."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


GETS = 8  # the default of --kestrel-waits
_names = itertools.count()


def new_key():
    """The name of an unused queue."""
    return f"k{next(_names)}"


def test_all_commands_work(broker):
    """Put, peek, take, abort, take again, confirm, statistics, flush and delete."""

    async def main():
        key = new_key()
        async with client(broker.address) as kestrel:
            assert kestrel.backends()[0].capabilities.missing == ()
            await kestrel.put(key, b"one")
            await kestrel.put(key, b"two", 3600)
            assert (await kestrel.peek(key)).result == b"one"
            read = await kestrel.wait(key, 1).result()
            assert read.data == b"one"
            await read.abort()
            read = await kestrel.wait(key, 0).result()
            assert read.data == b"one"
            stats = (await kestrel.queue_stats()).queues[key]
            assert (stats.items, stats.open_reads, stats.total_items) == (1, 1, 2)
            await read.confirm()
            await kestrel.flush(key)
            assert await kestrel.wait(key, 0).result() is None
            assert await kestrel.put_many(key, [(b"%d" % i, 0) for i in range(500)]) == [None] * 500
            assert (await kestrel.queue_stats()).queues[key].items == 500
            await kestrel.delete(key)
            assert key not in (await kestrel.queue_stats()).queues

    run(main)


def test_one_queue_alone_is_asked_for(broker):
    """Its counts and its children; None for one that is not there, which is not made by asking."""

    async def main():
        key = new_key()
        async with client(broker.address) as kestrel:
            assert not (await kestrel.queue_stats(key)).queues
            assert not (await kestrel.queue_stats(key)).queues
            await kestrel.put(key, b"one")
            assert (await kestrel.queue_stats(key)).queues[key].children == frozenset()
            await kestrel.fanout.create(key + "+a", 6)
            await kestrel.fanout.create(key + "+b", 6)
            stats = (await kestrel.queue_stats(key)).queues.get(key)
            assert (stats.items, stats.children) == (1, {f"{key}+a", f"{key}+b"})

    run(main)


@pytest.mark.parametrize("count", [examples(600), pytest.param(5000, marks=pytest.mark.slow)])
def test_thousands_of_parked_polls_use_few_connections_and_are_served_in_order(broker, count):
    """At most 32 connections while they wait; the n-th job goes to the n-th poll, or to a neighbour where several come
    at one instant; then nothing is left of them."""

    async def main():
        key = new_key()
        async with client(broker.address) as kestrel:
            waiters = [kestrel.wait(key, 60) for _ in range(count)]
            tasks = [asyncio.ensure_future(waiter.result()) for waiter in waiters]
            await until(lambda: kestrel.statistics().open_waits == GETS)
            assert kestrel.statistics().connections <= 32
            jobs = [(b"%d" % i, 0) for i in range(count)]
            for start in range(0, count, 200):
                assert not any(await kestrel.put_many(key, jobs[start : start + 200]))
            async with asyncio.timeout(30):
                reads = await asyncio.gather(*tasks)
            # Sockets that become readable at one instant are read in any order: each job may change places with those
            # of the other gets, and with no other.
            numbers = [int(read.data) for read in reads]
            assert sorted(numbers) == list(range(count))
            assert max(abs(number - place) for place, number in enumerate(numbers)) < GETS
            assert kestrel.statistics().pinned == count
            assert sum(type(item) is Bridge for item in gc.get_objects()) <= 100, (
                "a pinned connection holds no greenlet"
            )
            for start in range(0, count, 200):
                await asyncio.gather(*(read.confirm() for read in reads[start : start + 200]))
            assert (await kestrel.queue_stats()).queues[key].items == 0
            assert (await kestrel.queue_stats()).queues[key].open_reads == 0
            assert kestrel.statistics().connections <= 64 + 32
        del reads, tasks, waiters

    run(main)
    gc.collect()
    assert not [item for item in gc.get_objects() if type(item) is Connection]


def test_vanishing_polls_lose_nothing(broker):
    """Polls that go away around the moment their job comes: each job is delivered once to another poll."""

    async def main():
        key = new_key()
        async with client(broker.address) as kestrel:
            for i in range(examples(200)):
                task = asyncio.ensure_future(kestrel.wait(key, 20).result())
                await asyncio.sleep(0)
                put = asyncio.ensure_future(kestrel.put(key, b"%d" % i))
                for _ in range(i % 9):
                    await asyncio.sleep(0)
                task.cancel()
                await put
                try:
                    read = await task
                except asyncio.CancelledError:
                    async with asyncio.timeout(15):
                        read = await kestrel.wait(key, 5).result()
                assert read.data == b"%d" % i
                await read.confirm()
            stats = (await kestrel.queue_stats()).queues[key]
            assert (stats.items, stats.open_reads) == (0, 0)

    run(main)


def test_a_killed_broker_gives_everything_back(own_broker):
    """kill -9 with leases open and polls parked: leases are lost at once, polls live on, no stored job is missing."""

    async def main():
        async with client(own_broker.address) as kestrel:
            for i in range(20):
                await kestrel.put("q", b"%d" % i)
            reads = [await kestrel.wait("q", 1).result() for _ in range(10)]
            parked = asyncio.ensure_future(kestrel.wait("other", 20).result())
            lost = []
            for read in reads:
                read.on_lost(partial(lost.append, read))
            await until(lambda: kestrel.statistics().open_waits)
            await asyncio.to_thread(own_broker.kill)
            await until(lambda: len(lost) == 10)
            with contextlib.suppress(BackendUnavailable, OutcomeUnknown):
                await kestrel.put("q", b"never")
            await asyncio.to_thread(own_broker.start)
            await until(lambda: kestrel.available)
            await kestrel.put("other", b"late")
            read = await parked
            assert read.data == b"late"
            await read.confirm()
            again = [await kestrel.wait("q", 1).result() for _ in range(20)]
            assert sorted(int(read.data) for read in again) == list(range(20))
            for read in again:
                await read.confirm()
            for read in reads:
                try:
                    await read.confirm()
                except LeaseLost:
                    continue
                raise AssertionError("a lost lease was confirmed")

    run(main)


def test_items_of_any_bytes_come_back_unchanged(broker):
    """Empty, binary, protocol words and a megabyte, one by one and in a batch."""

    async def main():
        key = new_key()
        items = [b"", b"\r\n", b"END\r\n", b"VALUE q 0 1\r\n", bytes(range(256)), "é🐦".encode(), b"z" * (1 << 20)]
        async with client(broker.address) as kestrel:
            for item in items:
                await kestrel.put(key, item)
            assert await kestrel.put_many(key, [(item, 0) for item in items]) == [None] * len(items)
            for item in items * 2:
                read = await kestrel.wait(key, 1).result()
                assert read.data == item
                await read.confirm()

    run(main)


def test_what_came_for_polls_that_left_goes_back_in_order(broker):
    """Eight polls leave, twelve items come: later polls, soon or late, get them in their order."""

    async def main():
        async with client(broker.address) as kestrel:
            for pause_s in (0.0, 0.1):
                for left in ("before", "with"):
                    key = new_key()
                    polls = [kestrel.wait(key, 30) for _ in range(8)]
                    await until(lambda: kestrel.statistics().open_waits == 8)
                    if left == "before":
                        for poll in polls:
                            poll.cancel()
                    taken = kestrel.statistics().items_taken
                    await kestrel.put_many(key, [(b"%d" % i, 0) for i in range(12)])
                    await until(lambda taken=taken: kestrel.statistics().items_taken == taken + 8)
                    for poll in polls:
                        poll.cancel()
                    await asyncio.sleep(pause_s)
                    reads = [await kestrel.wait(key, 5).result() for _ in range(12)]
                    assert [int(read.data) for read in reads] == list(range(12)), (pause_s, left)
                    for read in reads:
                        await read.confirm()
                    await until(lambda: kestrel.statistics().open_waits == 0)

    run(main)


def test_what_came_for_nobody_over_two_servers_goes_back_in_order(broker, own_broker):
    """As with one server: each of them has its items in order again."""

    def is_at_rest(kestrel):
        return (kestrel.statistics().open_waits, kestrel.statistics().pinned) == (0, 0)

    async def main():
        async with client(broker.address, own_broker.address) as kestrel:
            for _ in range(100):
                key = new_key()
                given_back = kestrel.statistics().given_back_unserved
                polls = [kestrel.wait(key, 30) for _ in range(8)]
                await until(lambda: kestrel.statistics().open_waits == 16)
                for poll in polls:
                    poll.cancel()
                await kestrel.put_many(key, [(b"%d" % i, 0) for i in range(12)], ordering_key="one")
                await until(lambda: is_at_rest(kestrel))
                if kestrel.statistics().given_back_unserved == given_back + 8:
                    break  # otherwise the items came after the waits had ended, LINGER_S after their polls
            else:
                pytest.fail("the items always come too late")
            reads = [await kestrel.wait(key, 5).result() for _ in range(12)]
            assert [int(read.data) for read in reads] == list(range(12))
            for read in reads:
                await read.confirm()

    run(main)


def test_a_client_that_closes_gives_back_in_order(own_broker):
    """Items that were given to polls, and not fetched, are in their order for the next client."""

    async def main():
        key = new_key()
        async with client(own_broker.address) as kestrel:
            polls = [kestrel.wait(key, 30) for _ in range(8)]
            await until(lambda: kestrel.statistics().open_waits == 8)
            await kestrel.put_many(key, [(b"%d" % i, 0) for i in range(12)])
            await until(lambda: kestrel.statistics().pinned == 8)
        assert polls
        async with client(own_broker.address) as kestrel:
            await until_back(kestrel, key, 12)
            reads = [await kestrel.wait(key, 5).result() for _ in range(12)]
            assert [int(read.data) for read in reads] == list(range(12))
            for read in reads:
                await read.confirm()

    run(main)


async def until_back(kestrel, key, count):
    """Returns when so many items wait on the queue."""
    async with asyncio.timeout(20):
        while (await kestrel.queue_stats()).queues[key].items < count:
            await asyncio.sleep(0.002)


def freeze(broker):
    """Returns when it no longer changes."""
    broker.process.send_signal(signal.SIGSTOP)
    os.waitpid(broker.process.pid, os.WUNTRACED)


def test_a_wait_over_a_frozen_server_is_not_called_empty(broker, own_broker):
    """Its get is sent and it answers nothing: 1/2 of two, no 204 where it is alone; thawed, it is asked."""

    async def main():
        async with client(broker.address, own_broker.address) as both, client(own_broker.address) as alone:
            key = new_key()
            poll = both.wait(key, 0.5)
            assert await poll.result() is None
            assert poll.coverage is None
            await until(lambda: both.statistics().open_waits == 0)
            freeze(own_broker)
            try:
                loop, frozen = asyncio.get_running_loop(), both._servers.members[1]
                await until(lambda: loop.time() - frozen.connections.heard_at > 0.25)  # what it had said has come
                polls = [both.wait(key, 0.5), both.wait(key, 1), alone.wait(key, 0.5)]
                assert await polls[0].result() is None
                assert await polls[1].result() is None
                assert [str(each.coverage) for each in polls[:2]] == ["1/2", "1/2"]
                with pytest.raises(BackendUnavailable, match="does not answer"):
                    await polls[2].result()
            finally:
                own_broker.process.send_signal(signal.SIGCONT)
            poll = alone.wait(key, 0.5)
            assert await poll.result() is None

    run(main)
