"""The worker's side of the multiplexed connection with a real broker: what the conformance suite does not reach."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from functools import partial

import pytest

from gateway.common.multiplex import messages
from gateway.common.multiplex.frames import FrameDecoder, FrameKind
from gateway.errors import BackendUnavailable, GatewayError, JobTooLarge, LeaseLost, OutcomeUnknown, QueueDeleted
from gateway.kestrel.address import parse_address
from gateway.kestrel.counters import Counters
from gateway.kestrel.health import Health
from gateway.kestrel.multiplex.channel import BrokerChannel
from gateway.kestrel.multiplex.link import MultiplexedLink
from gateway.kestrel.multiplex.read import MultiplexedRead
from gateway.kestrel.polls.values import Get, ServerQueue
from gateway.kestrel.wire.codec import Codecs
from gateway.settings import Settings
from tests.kestrel.conftest import renew
from tests.kestrel.support import client, until
from tests.lab.examples import examples
from tests.lab.waiting import undisturbed
from tests.multiplex.client import Rig, fed

MIB = 1 << 20


@contextlib.asynccontextmanager
async def linked(broker: Rig, *, socket_path: str = "", versions=(1, 1), **settings) -> AsyncIterator[MultiplexedLink]:
    """A link that is up."""
    codecs = Codecs()
    link = MultiplexedLink(
        parse_address(broker.address), Settings(**settings), codecs, Counters(),
        on_change=lambda _: None, on_room=lambda: None, socket_path=socket_path or broker.socket, versions=versions,
    )  # fmt: skip
    link.start()
    try:
        await until(lambda: link.health.state is Health.UP)
        yield link
    finally:
        await link.close()
        codecs.close()


class Opened:
    """One get, and its answer."""

    def __init__(self, link: MultiplexedLink, key: str = "q", wait_s: float = 0.0) -> None:
        self.answer: asyncio.Future = asyncio.get_running_loop().create_future()
        self.queue = link.queue(key, "", lambda _: wait_s, self._answered)
        self.get = self.queue.get(Get(ServerQueue(self.queue, 1), wait_s > 0, True, 1, 0.0))
        self.get.start()

    def _answered(self, _get, item, error) -> None:
        if error is None:
            self.answer.set_result(item)
        else:
            self.answer.set_exception(error)

    async def item(self):
        return await asyncio.wait_for(self.answer, 20)


async def stored(link: MultiplexedLink, *items: bytes, key: str = "q") -> list[GatewayError | None]:
    outcomes: dict[int, GatewayError | None] = {}
    await link.store([(key, data, 0) for data in items], lambda *each: outcomes.update(zip(*each, strict=True)))
    return [outcomes[index] for index in range(len(items))]


@pytest.fixture(scope="module")
def lasting(tmp_path_factory):
    """A broker that tests leave alive and running."""
    with Rig(tmp_path_factory.mktemp("link") / "data") as running:
        yield running


@pytest.fixture
def broker(lasting):
    """The same, without the queues of the test before."""
    renew(lasting)
    return lasting


@pytest.fixture
def own_broker(tmp_path):
    """A broker that the test may kill or stop."""
    with Rig(tmp_path / "data") as running:
        yield running


def test_many_reads_are_open_on_one_connection(broker):
    """Without a limit per queue; each is settled by itself, in any order."""

    async def main():
        async with linked(broker) as link:
            assert await stored(link, *(b"%d" % number for number in range(300))) == [None] * 300
            reads = [await Opened(link).item() for _ in range(300)]
            assert all(isinstance(read, MultiplexedRead) for read in reads)
            assert [read.data for read in reads] == [b"%d" % number for number in range(300)]
            assert broker.connections() < 10
            for read in reversed(reads[:100]):
                await read.confirm()
            for read in reads[100:200]:
                assert await read.check()
                await read.verify()
            link.channel.shut()
            with pytest.raises(LeaseLost):
                await reads[200].confirm()
            await until(lambda: link.health.state is Health.UP and link.channel is not None)
            assert [(await Opened(link).item()).data for _ in range(200)] == [b"%d" % n for n in range(100, 300)]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("versions", "path", "why"),
    [((2, 5), "", "speaks versions 1 to 1"), ((1, 1), "/nonexistent/workers.sock", "No such file")],
)
def test_without_a_common_version_the_link_uses_memcache_and_warns_once(broker, caplog, versions, path, why):
    """Also if the broker is older and has no socket for workers."""

    async def main():
        async with linked(broker, versions=versions, socket_path=path) as link:
            assert link.channel is None
            await stored(link, b"x")
            item = await Opened(link).item()
            assert not isinstance(item, MultiplexedRead)
            await item.confirm()
            assert await link.peek("q") is None
            link.health.lost(BackendUnavailable("test"))
            await until(lambda: link.health.state is Health.UP)

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    warned = [record.getMessage() for record in caplog.records if "only memcache is used" in record.getMessage()]
    assert len(warned) == 1
    assert why in warned[0]


def test_a_newer_worker_and_a_newer_broker_use_the_common_version(broker):
    """The range of either may be wider."""

    async def main():
        async with linked(broker, versions=(1, 7)) as link:
            assert link.channel is not None
            assert await stored(link, b"x") == [None]

    asyncio.run(main())


def test_a_killed_broker_loses_every_read_and_serves_parked_polls_when_it_is_back(own_broker, caplog):
    """One log line; polls stay parked, and get the items within a second of its return."""

    async def main():
        async with client(own_broker.address, worker_sockets={own_broker.address: own_broker.socket}) as backend:
            await backend.put_many("q", [(b"%d" % number, 0) for number in range(200)])
            reads = [await backend.wait("q", 0).result() for _ in range(200)]
            lost: list[int] = []
            for number, read in enumerate(reads):
                read.on_lost(partial(lost.append, number))
            polls = [asyncio.create_task(backend.wait("q", 45).result()) for _ in range(50)]
            await asyncio.sleep(0.3)
            own_broker.kill()
            await until(lambda: len(lost) == 200)
            with pytest.raises(LeaseLost):
                await reads[0].confirm()
            assert not any(poll.done() for poll in polls)
            await asyncio.to_thread(own_broker.start)
            found = await asyncio.wait_for(asyncio.gather(*polls), 20)  # their gets are sent again, before their time
            assert sorted(int(read.data) for read in found) == list(range(50))
            for read in found:
                await read.confirm()

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert len([record for record in caplog.records if " is down: " in record.getMessage()]) == 1


@undisturbed(0.1)
def test_a_frozen_broker_keeps_the_reads(own_broker):
    """What is asked of it fails in time, alone; after that every read can be settled, and late items go back."""
    own_broker.thaw()
    own_broker.ask("flush_all")

    async def main():
        async with linked(own_broker, kestrel_command_timeout_s=0.5) as link:
            await stored(link, b"1", b"2", b"3", b"4")
            held = [await Opened(link).item() for _ in range(2)]
            own_broker.freeze()
            late = Opened(link)
            put = asyncio.create_task(stored(link, b"5"))
            with pytest.raises(OutcomeUnknown):
                await held[0].confirm()
            assert [type(error) for error in await put] == [OutcomeUnknown]
            with pytest.raises(BackendUnavailable):
                await late.item()
            await until(lambda: link.health.state is Health.DOWN)
            assert not held[1].lost
            own_broker.thaw()
            await until(lambda: link.health.state is Health.UP)
            await held[1].confirm()
            found = []
            async with asyncio.timeout(20):
                while len(found) < 3:
                    if (item := await Opened(link).item()) is not None:
                        found.append(item.data)
                        await item.confirm()
            assert sorted(found) == [b"3", b"4", b"5"]

    asyncio.run(main())


def test_a_closed_get_has_one_outcome(broker):
    """An item that was under way goes back without anyone's attempt; none is stranded."""

    async def main():
        async with linked(broker) as link:
            for number in range(50):
                get = Opened(link, wait_s=5.0)
                await asyncio.sleep(0.001 * (number % 5))
                putting = asyncio.create_task(stored(link, b"x"))
                await asyncio.sleep(0.0005 * (number % 7))
                get.get.close()
                await putting
                item = get.answer.result() if get.answer.done() else None
                async with asyncio.timeout(20):
                    while item is None:
                        item = await Opened(link, wait_s=1.0).item()
                await item.confirm()
            assert await Opened(link).item() is None
            assert not link.channel.reads

    asyncio.run(main())


def test_a_read_that_the_broker_has_ended_is_lost(tmp_path):
    """At once, by an event; its ack says so. Deleted with its queue is another error."""

    async def main(broker: Rig):
        async with linked(broker) as link:
            await stored(link, b"1", b"2")
            first = await Opened(link).item()
            lost = asyncio.Event()
            first.on_lost(lost.set)
            await asyncio.sleep(0.3)
            again = await Opened(link).item()
            await asyncio.wait_for(lost.wait(), 20)
            assert again.data == b"1"
            with pytest.raises(LeaseLost):
                await first.confirm()
            with pytest.raises(LeaseLost):
                await first.verify()
            await link.delete("q")
            await until(lambda: again.lost and again.deleted)
            with pytest.raises(QueueDeleted):
                await again.check()
            with pytest.raises(QueueDeleted):
                await again.confirm()

    with Rig(tmp_path / "data", config="[queues.q]\nopen_transaction_timeout = 0.2\n") as broker:
        asyncio.run(main(broker))


def test_items_of_any_size_and_of_many_queues(broker):
    """One store of many; a large one, an empty one, and one that is too large for the broker."""

    async def main():
        async with linked(broker, kestrel_max_item_bytes=200 * MIB) as link:
            large = bytes(range(256)) * 4096 * 5
            assert await stored(link, b"", large, b"x" * 70_000) == [None] * 3
            outcomes = await stored(link, b"y" * (64 * MIB + 1), b"ok")
            assert [type(error) for error in outcomes] == [JobTooLarge, type(None)]
            found = [(await Opened(link).item()).data for _ in range(4)]
            assert found == [b"", large, b"x" * 70_000, b"ok"]
            puts = [(f"many{number % 3}", b"%d" % number, 0) for number in range(30)]
            reported: dict[int, GatewayError | None] = {}
            await link.store(puts, lambda *each: reported.update(zip(*each, strict=True)))
            assert reported == dict.fromkeys(range(30))
            for number in range(30):
                assert (await Opened(link, f"many{number % 3}").item()).data == b"%d" % number

    asyncio.run(main())


def test_large_items_of_one_queue_do_not_hold_up_another(broker):
    """While 60 MiB go in and out, a small put and take of another queue is not seconds late."""

    async def main():
        async with linked(broker) as link:
            large = b"z" * (60 * MIB)

            async def stream() -> None:
                for _ in range(examples(3, fewest=1)):
                    assert await stored(link, large, key="large") == [None]
                    item = await Opened(link, "large", wait_s=5).item()
                    assert len(item.data) == len(large)
                    await item.confirm()

            streaming = asyncio.create_task(stream())
            times = []
            while not streaming.done():
                began_s = time.monotonic()
                assert await stored(link, b"small") == [None]
                item = await Opened(link, wait_s=5).item()
                await item.confirm()
                times.append(time.monotonic() - began_s)
                await asyncio.sleep(0.01)
            await streaming
            times.sort()
            assert times[len(times) * 9 // 10] < 0.5, times

    asyncio.run(main())


class Recorded:
    """A transport that remembers each write."""

    def __init__(self, transport) -> None:
        self._transport = transport
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str):
        return getattr(self._transport, name)


def kinds(data: bytes) -> list[int]:
    """The kinds of the frames in these bytes."""
    return [found.kind for found in fed(FrameDecoder(MIB, MIB), data)]


async def channel_of(backend) -> BrokerChannel:
    """The connection of a client with one server."""
    (server,) = backend._servers.members
    await until(lambda: server.channel is not None)
    return server.channel


def test_a_confirm_and_the_take_behind_it_go_in_one_write(broker):
    """The item comes after the commit; if the confirm fails, no item is taken."""

    async def main():
        async with client(broker.address, worker_sockets={broker.address: broker.socket}) as backend:
            await backend.put_many("q", [(b"1", 0), (b"2", 0)])
            first = await backend.wait("q", 0).result()
            channel = await channel_of(backend)
            recorded = channel.frames.transport = Recorded(channel.frames.transport)
            poll = backend.take_after(first, "q", 0)
            confirmed = asyncio.get_running_loop().create_future()
            assert first.start_confirm(confirmed.set_result)
            second = await poll.result()
            assert confirmed.result() is None
            assert second.data == b"2"
            assert [kinds(data) for data in recorded.writes] == [[FrameKind.OPEN, FrameKind.CONFIRM]]
            again = backend.take_after(second, "q", 0)
            second.give_back()  # by another way: there is nothing to confirm
            assert await asyncio.wait_for(asyncio.wait_for(poll_ends(again, channel), 5), 20) is None
            assert (await backend.wait("q", 0).result()).data == b"2"

    async def poll_ends(poll, channel):
        """The open waits for a confirm that does not come, until its caller ends it."""
        await asyncio.sleep(0.05)
        assert channel._answers
        poll.cancel()
        return await poll.result()

    asyncio.run(main())


def test_every_confirm_of_many_consumers_goes_with_the_take_behind_it(broker):
    """However many polls of the queue are under way: no poll lines up while none waits."""

    async def main():
        async with client(broker.address, worker_sockets={broker.address: broker.socket}) as backend:
            await backend.put_many("q", [(b"%d" % number, 0) for number in range(120)])
            taken = [await backend.wait("q", 0).result() for _ in range(60)]
            channel = await channel_of(backend)
            recorded = channel.frames.transport = Recorded(channel.frames.transport)
            polls = [backend.take_after(read, "q", 0) for read in taken]
            assert all(poll is not None for poll in polls)
            confirmed = [read.start_confirm(lambda error: None) for read in taken]
            assert all(confirmed)
            later = [await poll.result() for poll in polls]
            assert [read.data for read in later] == [b"%d" % number for number in range(60, 120)]
            assert [kinds(data) for data in recorded.writes] == [[FrameKind.OPEN] * 60 + [FrameKind.CONFIRM]]

    asyncio.run(main())


def test_no_more_takes_are_under_way_than_the_server_may_hold_items(broker):
    """Further polls line up until the takes are over."""

    async def main():
        sockets = {broker.address: broker.socket}
        async with client(broker.address, worker_sockets=sockets, max_server_leases=3) as backend:
            await backend.put_many("q", [(b"%d" % number, 0) for number in range(6)])
            (server,) = backend._servers.members
            assert isinstance(server, MultiplexedLink)
            taken = [backend.wait("q", 0) for _ in range(3)]
            assert server.room.coming.held == 3
            assert server.start_take("q", "", lambda *_: None, None) is None
            reads = [await poll.result() for poll in taken]
            assert [read.data for read in reads] == [b"0", b"1", b"2"]
            assert (server.room.items.held, server.room.coming.held) == (3, 0)
            for read in reads:
                await read.confirm()
            cancelled, empty = backend.wait("q", 5), backend.wait("other", 0)
            assert server.room.coming.held == 2
            cancelled.cancel()
            assert await empty.result() is None
            assert (server.room.items.held, server.room.coming.held) == (0, 0)

    asyncio.run(main())


def test_an_open_behind_a_confirm_that_fails_takes_nothing(tmp_path):
    """The broker had ended the read: the item that is next stays on its queue, without an attempt."""

    async def main(broker: Rig):
        async with client(broker.address, worker_sockets={broker.address: broker.socket}) as backend:
            await backend.put_many("q", [(b"1", 0), (b"2", 0)])
            first = await backend.wait("q", 0).result()
            await asyncio.sleep(0.3)
            channel = await channel_of(backend)
            channel.reads.pop(first._id)  # the event that ends it is on its way
            assert (await backend.wait("q", 0).result()).data == b"1"
            poll = backend.take_after(first, "q", 5)
            confirmed = asyncio.get_running_loop().create_future()
            assert first.start_confirm(confirmed.set_result)
            assert isinstance(await asyncio.wait_for(confirmed, 20), LeaseLost)
            poll.cancel()
            assert await poll.result() is None
            assert (await backend.wait("q", 0).result()).data == b"2"

    with Rig(tmp_path / "data", config="[queues.q]\nopen_transaction_timeout = 0.2\n") as broker:
        asyncio.run(main(broker))


def test_the_confirms_of_one_turn_go_in_one_frame(broker):
    """Each has its own outcome."""

    async def main():
        async with linked(broker) as link:
            await stored(link, *(b"%d" % number for number in range(20)))
            reads = [await Opened(link).item() for _ in range(20)]
            recorded = link.channel.frames.transport = Recorded(link.channel.frames.transport)
            link.channel.reads.pop(reads[3]._id)
            reads[3]._channel.ask(FrameKind.ABORT, messages.pack_ids((reads[3]._id,)), lambda _: None)
            outcomes = await asyncio.gather(*(read.confirm() for read in reads), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes].count(LeaseLost) == 1
            assert kinds(b"".join(recorded.writes)).count(FrameKind.CONFIRM) == 1

    asyncio.run(main())


@undisturbed(0.1)
def test_a_confirm_that_is_answered_late_settles_its_read(own_broker):
    """The second outcome is the true one."""
    own_broker.thaw()
    own_broker.ask("flush_all")

    async def main():
        async with linked(own_broker, kestrel_command_timeout_s=0.3) as link:
            await stored(link, b"1")
            read = await Opened(link).item()
            outcomes: list[GatewayError | None] = []
            own_broker.freeze()
            assert read.start_confirm(outcomes.append)
            await until(lambda: outcomes)
            assert isinstance(outcomes[0], OutcomeUnknown)
            own_broker.thaw()
            await until(lambda: len(outcomes) == 2)
            assert outcomes[1] is None

    asyncio.run(main())
