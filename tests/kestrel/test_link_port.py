"""What every implementation of the port `kestrel.link.ServerLink` keeps, on servers of each kind.

A new implementation is one more entry of LINKS. A test uses the port and the names of values alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from gateway.errors import BackendUnavailable, LeaseLost
from gateway.kestrel.address import parse_address
from gateway.kestrel.counters import Counters
from gateway.kestrel.health import Health
from gateway.kestrel.link import ServerLink
from gateway.kestrel.multiplex.link import MultiplexedLink
from gateway.kestrel.polls.values import Get, ServerQueue
from gateway.kestrel.server.memcache_link import MemcacheLink
from gateway.kestrel.wire.codec import Codecs
from gateway.settings import Settings
from tests.kestrel.conftest import renew
from tests.kestrel.standin import Manners, StandIn, darner, siberite
from tests.kestrel.support import until
from tests.lab.broker import BrokerProcess

Opened = Callable[[BrokerProcess], contextlib.AbstractAsyncContextManager[tuple[ServerLink, Callable[[], object]]]]


@contextlib.asynccontextmanager
async def memcache_link(address: str) -> AsyncIterator[ServerLink]:
    """A link that is up."""
    codecs = Codecs()
    link: ServerLink = MemcacheLink(
        parse_address(address), Settings(), codecs, Counters(), on_change=lambda _: None, on_room=lambda: None
    )
    link.start()
    try:
        await until(lambda: link.health.state is Health.UP)
        yield link
    finally:
        await link.close()
        codecs.close()


@contextlib.asynccontextmanager
async def multiplexed(broker: BrokerProcess):
    """The embedded broker, as a process, on a multiplexed connection."""
    codecs = Codecs()
    link = MultiplexedLink(
        parse_address(broker.address), Settings(), codecs, Counters(),
        on_change=lambda _: None, on_room=lambda: None, socket_path=broker.worker_socket,
    )  # fmt: skip
    link.start()
    try:
        await until(lambda: link.health.state is Health.UP)
        assert link.channel is not None
        yield link, broker.kill
    finally:
        await link.close()
        codecs.close()
        renew(broker)


@contextlib.asynccontextmanager
async def to_a_broker(broker: BrokerProcess):
    """The embedded broker, as a process."""
    try:
        async with memcache_link(broker.address) as link:
            yield link, broker.kill
    finally:
        renew(broker)


def to_a_stand_in(kind: Callable[[], Manners]) -> Opened:
    """A stand-in of Kestrel or of an imitator."""

    @contextlib.asynccontextmanager
    async def opened(_broker: BrokerProcess):
        async with StandIn(kind()) as server, memcache_link(server.address) as link:
            stopped: list[asyncio.Task[None]] = []
            yield link, lambda: stopped.append(asyncio.ensure_future(server.stop()))
            await asyncio.gather(*stopped)

    return opened


LINKS: dict[str, Opened] = {
    "broker": to_a_broker,
    "multiplexed": multiplexed,
    "kestrel": to_a_stand_in(Manners),
    "darner": to_a_stand_in(darner),
    "siberite": to_a_stand_in(siberite),
}


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A broker without queues."""
    directory = tmp_path_factory.mktemp("link")
    with BrokerProcess(directory / "data", "--fsync", "off", worker_socket=str(directory / "workers.sock")) as broker:
        yield broker


@pytest.fixture(params=list(LINKS.values()), ids=list(LINKS))
def opened(request: pytest.FixtureRequest, process: BrokerProcess):
    """Opens one implementation; a test closes it."""
    return lambda: request.param(process)


class Asked:
    """The gets of one queue on a link: `get` sends one, and returns its item or None, or raises its error."""

    def __init__(self, link: ServerLink, wait_s: float = 0.0) -> None:
        self.wait_s = wait_s
        self.answer: asyncio.Future = asyncio.get_running_loop().create_future()
        self.queue = link.queue("q", "", lambda _: self.wait_s, self.answered)

    def answered(self, _get, item, error):
        if error is None:
            self.answer.set_result(item)
        else:
            self.answer.set_exception(error)

    def start(self):
        self.queue.take_place()
        self.answer.add_done_callback(lambda _: self.queue.return_place())
        get = self.queue.get(Get(ServerQueue(self.queue, 1), self.wait_s > 0, True, 1, 0.0))
        get.start()
        return get


async def take(link: ServerLink, wait_s: float = 0.0):
    """The queue's next item, or None."""
    asked = Asked(link, wait_s)
    asked.start()
    return await asyncio.wait_for(asked.answer, 20)


async def stored(link: ServerLink, *items: bytes) -> list[object]:
    """The outcomes, by place."""
    outcomes: dict[int, object] = {}
    await link.store([("q", data, 0) for data in items], lambda *each: outcomes.update(zip(*each, strict=True)))
    return [outcomes[index] for index in range(len(items))]


def test_items_are_stored_in_order_and_each_is_reported(opened):
    """A whole batch; they come back in the order in which they were put, one per take."""

    async def main():
        async with opened() as (link, _):
            sent = [b"\0%d\r\n" % number for number in range(link.batch_items)]
            assert await stored(link, *sent) == [None] * len(sent)
            for data in sent:
                item = await take(link)
                assert (item.key, item.data, item.lost) == ("q", data, False)
                await item.confirm()
            assert await take(link) is None

    asyncio.run(main())


def test_a_wait_gets_the_item_that_comes_and_a_closed_one_leaves_it(opened):
    """The get stays on the server; what a closed get would have brought is there for the next."""

    async def main():
        async with opened() as (link, _):
            asked = Asked(link, 2.0)
            asked.start()
            if not link.health.capabilities.waits:
                assert await asyncio.wait_for(asked.answer, 20) is None  # Siberite ignores `t=`
                return
            await asyncio.sleep(0.1)
            assert not asked.answer.done()
            assert await stored(link, b"1") == [None]
            item = await asyncio.wait_for(asked.answer, 20)
            await item.confirm()
            closed = Asked(link, 2.0)
            get = closed.start()
            await asyncio.sleep(0.1)
            get.close()
            closed.queue.return_place()
            assert await stored(link, b"2") == [None]
            item = None
            async with asyncio.timeout(20):
                while item is None:
                    item = await take(link)
            assert (item.data, closed.answer.done()) == (b"2", False)
            await item.confirm()

    asyncio.run(main())


def test_an_item_goes_back_to_the_head(opened):
    """By `abort` before it returns, by `start_abort` before it calls back, by `give_back` soon."""

    async def main():
        async with opened() as (link, _):
            await stored(link, b"1", b"2")
            await (await take(link)).abort()
            item = await take(link)
            assert item.data == b"1"
            done = asyncio.get_running_loop().create_future()
            item.start_abort(done.set_result)
            assert await asyncio.wait_for(done, 20)
            item = await take(link)
            assert item.data == b"1"
            item.give_back()
            found = []
            async with asyncio.timeout(20):
                while len(found) < 2:
                    if (item := await take(link)) is not None:
                        found.append(item.data)
                        await item.confirm()
            assert sorted(found) == [b"1", b"2"]

    asyncio.run(main())


def test_peek_figures_flush_and_delete(opened):
    """A peek takes nothing; the figures count; a flush empties; a deleted queue has no items."""

    async def main():
        async with opened() as (link, _):
            await stored(link, b"1", b"2")
            assert await link.peek("q") == b"1"
            assert (await link.stats(["q"]))["q"].items == 2
            assert (await link.stats([]))["q"].items == 2
            assert "q" in await link.names()
            await link.flush("q")
            assert await link.peek("q") is None
            await stored(link, b"3")
            await link.delete("q")
            found = (await link.stats(["q"])).get("q")
            assert found is None or found.items == 0

    asyncio.run(main())


def test_create(opened):
    """The queue is there, without items. To create it again changes nothing."""

    async def main():
        async with opened() as (link, _):
            await link.create("q")
            assert "q" in await link.names()
            await stored(link, b"1")
            await link.create("q")
            assert await link.peek("q") == b"1"

    asyncio.run(main())


def test_a_look_at_a_deleted_queue_does_not_create_it(process):
    """On the embedded broker: a worker's round of ages, which looks at a queue just deleted, does not bring it back."""

    async def main():
        async with multiplexed(process) as (link, _):
            for key in ("q", "q+child"):
                await link.create(key)
                await link.delete(key)
                assert await link.peek(key) is None
            assert not await link.names()

    asyncio.run(main())


def test_the_loss_of_the_server_is_reported_everywhere(opened):
    """To a held item, to a get on the server, to puts and to questions; the link knows that it is down."""

    async def main():
        async with opened() as (link, stop):
            await stored(link, b"1")
            item = await take(link)
            lost = asyncio.Event()
            item.on_lost(lost.set)
            waiting = Asked(link, 5.0)
            waiting.start()
            await asyncio.sleep(0.05)
            stop()
            await asyncio.wait_for(lost.wait(), 20)
            with pytest.raises(LeaseLost):
                await item.confirm()
            if not waiting.answer.done() or waiting.answer.exception() is not None:
                with pytest.raises(BackendUnavailable):
                    await asyncio.wait_for(waiting.answer, 20)
            await until(lambda: link.health.state is Health.DOWN)
            (outcome,) = await stored(link, b"2")
            assert isinstance(outcome, BackendUnavailable)
            with pytest.raises(BackendUnavailable):
                await link.stats([])
            assert isinstance(link.health.error, BackendUnavailable)

    asyncio.run(main())
