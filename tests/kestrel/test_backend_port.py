"""What every implementation of the port `delivery.backend.Backend` keeps, over servers of each kind, one and several.

A new implementation is one more entry of BACKENDS. A test uses the port and the names of values alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from gateway.delivery.backend import Backend
from gateway.errors import BackendUnavailable, LeaseLost, TooManyLeases
from tests.kestrel.conftest import on_a_socket, renew
from tests.kestrel.standin import Manners, StandIn, darner, siberite
from tests.kestrel.support import client
from tests.lab.broker import BrokerProcess
from tests.lab.examples import in_ci

Opened = Callable[[list[BrokerProcess]], contextlib.AbstractAsyncContextManager["Rig"]]


class Rig:
    """A backend, and the means to end its servers. in_order: whether one server keeps the order of all items."""

    def __init__(self, backend: Backend, stop: Callable[[], object], *, in_order: bool, total: int) -> None:
        self.backend = backend
        self.in_order = in_order
        self.total = total
        self.stop = stop


def kill(made: list[BrokerProcess]) -> None:
    for each in made:
        each.kill()


def brokers(count: int, multiplexed: int = 0) -> Opened:
    """Embedded brokers, each a process; some are reached by multiplexed connections."""

    @contextlib.asynccontextmanager
    async def opened(processes: list[BrokerProcess]) -> AsyncIterator[Rig]:
        made = processes[:count]
        try:
            sockets = {each.address: each.worker_socket for each in made[:multiplexed]}
            async with client(
                *(each.address for each in made), worker_sockets=sockets, kestrel_connect_timeout_s=0.5
            ) as backend:
                yield Rig(backend, lambda: kill(made), in_order=count == 1, total=count)
        finally:
            for each in made:
                renew(each)

    return opened


def stand_ins(*kinds: Callable[[], Manners]) -> Opened:
    """Stand-ins of Kestrel and its imitators."""

    @contextlib.asynccontextmanager
    async def opened(_processes: list[BrokerProcess]) -> AsyncIterator[Rig]:
        async with contextlib.AsyncExitStack() as stack:
            made = [await stack.enter_async_context(StandIn(kind())) for kind in kinds]
            backend = await stack.enter_async_context(
                client(*(each.address for each in made), kestrel_connect_timeout_s=0.5)
            )
            loop = asyncio.get_running_loop()

            def stop() -> None:
                stopped.extend(loop.create_task(each.stop()) for each in made)

            stopped: list[asyncio.Task[None]] = []
            yield Rig(backend, stop, in_order=len(kinds) == 1, total=len(kinds))
            await asyncio.gather(*stopped)

    return opened


BACKENDS = {
    "broker": brokers(1),
    "three brokers": brokers(3),
    "multiplexed": brokers(1, multiplexed=1),
    "three, two of them multiplexed": brokers(3, multiplexed=2),
    "kestrel": stand_ins(Manners),
    "darner": stand_ins(darner),
    "siberite": stand_ins(siberite),
    "mixed": stand_ins(Manners, darner, siberite),
}
TESTED = (
    "broker",
    "multiplexed",
    "three, two of them multiplexed",
    "kestrel",
    "mixed",
    *in_ci("three brokers", "darner", "siberite"),
)
"""The servers of the last three are in the mixed ones, too."""


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[BrokerProcess]]:
    """As many brokers as a test needs at most, without queues."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(on_a_socket(tmp_path_factory.mktemp("broker"))) for _ in range(3)]


@pytest.fixture(params=TESTED)
def opened(
    request: pytest.FixtureRequest, processes: list[BrokerProcess]
) -> Callable[[], contextlib.AbstractAsyncContextManager[Rig]]:
    """Opens one implementation; a test closes it."""
    return lambda: BACKENDS[request.param](processes)


async def take(backend: Backend, timeout_s: float = 2.0):
    """The queue's next open read, or None."""
    return await backend.wait("q", timeout_s).result()


def test_an_item_is_stored_taken_and_confirmed(opened):
    """It is there once, under one open read, and gone afterwards."""

    async def main():
        async with opened() as rig:
            await rig.backend.put("q", b"\0 one\r\n")
            read = await take(rig.backend)
            assert (read.key, read.data, read.lost) == ("q", b"\0 one\r\n", False)
            assert await take(rig.backend, 0) is None
            await read.confirm()
            assert await take(rig.backend, 0) is None
            found = (await rig.backend.queue_stats("q")).queues.get("q")
            assert found is None or (found.items, found.open_reads) == (0, 0)

    asyncio.run(main())


def test_one_server_keeps_the_order_and_an_ordering_key_does_everywhere(opened):
    """First in, first out: of a single server always, of several for items with one ordering key."""

    async def main():
        async with opened() as rig:
            sent = [b"%d" % number for number in range(10)]
            outcomes = await rig.backend.put_many(
                "q", [(data, 0) for data in sent], ordering_key=None if rig.in_order else "k"
            )
            assert outcomes == [None] * 10
            got = []
            for _ in sent:
                read = await take(rig.backend)
                got.append(read.data)
                await read.confirm()
            assert got == sent

    asyncio.run(main())


def test_an_aborted_item_is_next(opened):
    """It is back before `abort` returns, ahead of what came later."""

    async def main():
        async with opened() as rig:
            await rig.backend.put("q", b"1", ordering_key="k")
            await rig.backend.put("q", b"2", ordering_key="k")
            read = await take(rig.backend)
            await read.abort()
            for expected in (b"1", b"2"):
                read = await take(rig.backend)
                assert read.data == expected
                await read.confirm()

    asyncio.run(main())


def test_an_item_given_back_wakes_who_waits(opened):
    """`give_back` does not wait for the server; a parked poll gets the item as soon as the server has put it back."""

    async def main():
        async with opened() as rig:
            await rig.backend.put("q", b"1")
            read = await take(rig.backend)
            poll = asyncio.create_task(take(rig.backend, 10))
            await asyncio.sleep(0.1)
            read.give_back()
            again = await asyncio.wait_for(poll, 20)
            assert again.data == b"1"
            await again.confirm()

    asyncio.run(main())


def test_a_put_wakes_who_waits(opened):
    """Parked polls get one item each, in the order in which they came, and none is left over."""

    async def main():
        async with opened() as rig:
            polls = [asyncio.create_task(take(rig.backend, 10)) for _ in range(5)]
            await asyncio.sleep(0.3)
            began_s = time.monotonic()
            for number in range(5):
                await rig.backend.put("q", b"%d" % number)
            reads = await asyncio.gather(*polls)
            assert time.monotonic() - began_s < 5
            assert sorted(read.data for read in reads) == [b"%d" % number for number in range(5)]
            for read in reads:
                await read.confirm()
            assert await take(rig.backend, 0) is None

    asyncio.run(main())


def test_a_poll_that_leaves_takes_nothing_along(opened):
    """Cancelled before or during the put that would have woken it: the next one gets the item."""

    async def main():
        async with opened() as rig:
            for number in range(5):
                poll = rig.backend.wait("q", 10)
                result = asyncio.create_task(poll.result())
                await asyncio.sleep(0.02 * number)
                put = asyncio.create_task(rig.backend.put("q", b"x"))
                await asyncio.sleep(0)
                poll.cancel()
                await put
                read = await result or await take(rig.backend, 5)
                assert read.data == b"x"
                await read.confirm()
            assert await take(rig.backend, 0) is None

    asyncio.run(main())


def test_figures_peeks_and_changes_name_how_many_servers_took_part(opened):
    """All did; asking creates no item, a flush empties the queue, a delete ends it."""

    async def main():
        async with opened() as rig:
            assert not (await rig.backend.queue_stats("q")).queues
            await rig.backend.put("q", b"1")
            merged = await rig.backend.queue_stats("q")
            assert (merged.queues["q"].items, str(merged.coverage)) == (1, f"{rig.total}/{rig.total}")
            assert "q" in await rig.backend.keys()
            peeked = await rig.backend.peek("q")
            assert (peeked.result, peeked.coverage.partial) == (b"1", False)
            assert not (await rig.backend.flush("q")).partial
            assert await take(rig.backend, 0) is None
            assert not (await rig.backend.delete("q")).partial
            found = (await rig.backend.queue_stats("q")).queues.get("q")
            assert found is None or found.items == 0

    asyncio.run(main())


def test_a_lost_server_is_told_to_whoever_holds_its_item(opened):
    """The open read is lost, and says so to a callback and to its settlement; what comes afterwards is unavailable."""

    async def main():
        async with opened() as rig:
            await rig.backend.put("q", b"1")
            read = await take(rig.backend)
            lost = asyncio.Event()
            read.on_lost(lost.set)
            rig.stop()
            await asyncio.wait_for(lost.wait(), 20)
            assert read.lost
            with pytest.raises(LeaseLost):
                await read.confirm()
            with pytest.raises(BackendUnavailable):
                await rig.backend.put("q", b"2")

    asyncio.run(main())


def test_items_taken_one_by_one_go_back_in_order(opened):
    """Each member gives its items from the head on; given back the newest first, they are as before."""

    async def main():
        async with opened() as rig:
            for number in range(12):
                await rig.backend.put("q", b"%d" % number)
            orders = []
            for _ in range(3):
                order = []
                for member in rig.backend.each_member():
                    taken = []
                    while (read := await member.take("q")) is not None:
                        taken.append(read)
                    order.append([int(read.data) for read in taken])
                    assert order[-1] == sorted(order[-1])
                    for read in reversed(taken):
                        await read.abort()
                orders.append(order)
            assert orders[0] == orders[1] == orders[2]
            assert sum(map(len, orders[0])) == 12

    asyncio.run(main())


def test_a_member_gives_no_more_than_it_may_hold(tmp_path):
    """A search takes up no more places than other takes: the next item is refused, and nothing is taken."""

    async def main():
        with on_a_socket(tmp_path) as broker:
            async with client(broker.address, max_server_leases=2) as backend:
                for number in range(3):
                    await backend.put("q", b"%d" % number)
                (member,) = backend.each_member()
                held = [await member.take("q") for _ in range(2)]
                with pytest.raises(TooManyLeases):
                    await member.take("q")
                assert (await backend.queue_stats("q")).queues["q"].open_reads == 2
                for read in reversed(held):
                    await read.abort()

    asyncio.run(main())


def test_the_first_of_several_queues_with_an_item_is_served(opened):
    """At once, and while it waits; a poll that leaves takes nothing along."""

    async def main():
        async with opened() as rig:

            async def first(timeout_s: float) -> tuple[str, bytes]:
                read = await rig.backend.wait_in_order(["high", "low"], timeout_s).result()
                await read.confirm()
                return read.key, read.data

            await rig.backend.put("low", b"1")
            await rig.backend.put("high", b"2")
            assert [await first(0), await first(0)] == [("high", b"2"), ("low", b"1")]
            assert await rig.backend.wait_in_order(["high", "low"], 0.1).result() is None
            for key in ("low", "high"):
                waiting = asyncio.create_task(first(10))
                await asyncio.sleep(0.1)
                await rig.backend.put(key, b"3")
                assert await asyncio.wait_for(waiting, 20) == (key, b"3")
            leaves = rig.backend.wait_in_order(["high", "low"], 10)
            result = asyncio.create_task(leaves.result())
            await asyncio.sleep(0.1)
            await rig.backend.put("low", b"4")
            leaves.cancel()
            read = await result
            assert read is None or (read.data, await read.abort()) == (b"4", None)
            assert await first(5) == ("low", b"4")

    asyncio.run(main())
