"""What a client can do with items, whatever the protocol of its connection: the broker without sockets."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.broker.broker import Broker, Options, PutOutcome, TooManyReadsError, UnavailableError
from gateway.broker.multiplex.commits import Commits
from gateway.broker.multiplex.reads import MultiplexedReads
from gateway.broker.queues.reads import ClientReads, OpenItem, ReadMode
from gateway.broker.storage.batch import StoredItem, Ticket
from gateway.broker.storage.large import work as large_work
from gateway.common.multiplex.frames import Frame, FrameKind
from gateway.common.multiplex.messages import Opening


class Settled:
    """Waits for a ticket."""

    def __init__(self, ticket: Ticket | None) -> None:
        assert ticket is not None
        self._released = asyncio.Event()
        if ticket.done:
            self.release()
        else:
            ticket.holders[self] = None

    def release(self) -> None:
        self._released.set()

    async def wait(self) -> None:
        async with asyncio.timeout(10):
            await self._released.wait()


class WaitingOpen:
    """An open that waits; it is no get of a memcache session."""

    def __init__(self, reads: ClientReads) -> None:
        self.mode = ReadMode.OPEN
        self.waits_for_items = True
        self.blocked = False
        self.reads = reads
        self.got: asyncio.Future[StoredItem] = asyncio.get_running_loop().create_future()

    def receive(self, item: StoredItem, read: OpenItem | None, ticket: Ticket | None) -> None:
        assert read is not None
        assert ticket is None
        self.got.set_result(item)

    def nothing(self, error: str | None) -> None:
        self.got.set_exception(LookupError(error))


@asynccontextmanager
async def running(directory: Path, config: str = "") -> AsyncIterator[Broker]:
    path = directory / "limits.toml"
    path.write_text(config)
    broker = Broker(Options(data=directory / "data", config=path, fsync=False), asyncio.get_running_loop())
    try:
        yield broker
    finally:
        await broker.close()


async def put(broker: Broker, *items: bytes) -> None:
    for item in items:
        outcome, ticket, item_id = broker.put(b"q", item, 0)
        assert outcome is PutOutcome.ACCEPTED
        assert item_id
    await Settled(ticket).wait()


def opened(broker: Broker, reads: ClientReads) -> bytes | None:
    _, found = broker.read(b"q", ReadMode.OPEN, reads)
    return None if found is None else found[0].data


def test_items_are_opened_confirmed_and_given_back(tmp_path: Path) -> None:
    """A confirmed item is gone, also after a restart; aborted ones are first again."""

    async def before() -> None:
        async with running(tmp_path) as broker:
            reads = ClientReads(10)
            await put(broker, b"1", b"2", b"3")
            assert [opened(broker, reads) for _ in range(3)] == [b"1", b"2", b"3"]
            assert opened(broker, reads) is None
            await Settled(reads.confirm_oldest(b"q")).wait()
            reads.abort_oldest(b"q")
            assert (len(reads), reads.count(b"q"), reads.count(b"other")) == (1, 1, 0)
            assert opened(broker, reads) == b"2"

    async def after() -> None:
        async with running(tmp_path) as broker:
            reads = ClientReads(10)
            queue, found = broker.read(b"q", ReadMode.PEEK, reads)
            if found is None:
                assert queue.backlog.starved
                waiting = WaitingOpen(reads)
                queue.waiters.join(waiting)
                assert (await asyncio.wait_for(waiting.got, 10)).data == b"2"
            assert opened(broker, reads) == b"3"
            assert opened(broker, reads) is None

    asyncio.run(before())
    asyncio.run(after())


def test_a_connection_that_ends_gives_back_in_the_order_of_taking(tmp_path: Path) -> None:
    """Each item becomes the first, so the one that was taken last is the head; nothing stays open."""

    async def scenario() -> None:
        async with running(tmp_path) as broker:
            ended, other = ClientReads(10), ClientReads(10)
            await put(broker, b"1", b"2", b"3")
            for _ in range(3):
                opened(broker, ended)
            ended.give_back_all()
            assert (len(ended), len(broker.queues.get(b"q").open_reads)) == (0, 0)
            assert [opened(broker, other) for _ in range(4)] == [b"3", b"2", b"1", None]

    asyncio.run(scenario())


def test_a_worker_that_ends_gives_all_its_reads_back_in_one_step(tmp_path: Path) -> None:
    """In the order of taking, and without a call of Python for each of them, so that no turn of the loop is long."""

    class Worker:
        blocked = False

        def done(self, *_: object) -> None: ...
        def end(self, *_: object) -> None: ...
        def carry(self, *_: object) -> None: ...

    async def calls(broker: Broker, count: int) -> int:
        """Of Python functions, while a connection with so many reads ends."""
        await put(broker, *(b"%d" % number for number in range(count)))
        reads = MultiplexedReads(broker, Commits(), Worker())
        opening = Opening(b"q", items=count)
        reads.open(Frame(FrameKind.OPEN, 0, 1, opening.pack()))
        queue = broker.queues.get(b"q")
        while len(queue.open_reads) < count:
            await asyncio.sleep(0)
            rest = opening._replace(items=count - len(queue.open_reads))
            reads.open(Frame(FrameKind.OPEN, 0, 1 + len(queue.open_reads), rest.pack()))
        made = 0

        def count_call(_frame: object, event: str, _arg: object) -> None:
            nonlocal made
            made += event == "call"

        sys.setprofile(count_call)
        try:
            reads.close()
        finally:
            sys.setprofile(None)
        assert [item.data for item in queue.backlog.ready] == [b"%d" % number for number in range(count)]
        assert (len(queue.open_reads), queue.open_reads.bytes, queue.backlog.items) == (0, 0, count)
        assert queue.backlog.ready_bytes == queue.backlog.bytes == sum(len(item.data) for item in queue.backlog.ready)
        ticket = queue.flush()
        await Settled(ticket).wait()
        return made

    async def scenario() -> None:
        async with running(tmp_path) as broker:
            assert await calls(broker, 1000) == await calls(broker, 10)

    asyncio.run(scenario())


def test_reads_are_settled_in_any_order(tmp_path: Path) -> None:
    """By the read itself; a read of another connection is refused."""

    async def scenario() -> None:
        async with running(tmp_path) as broker:
            reads = ClientReads(10)
            await put(broker, b"1", b"2", b"3")
            found = [broker.read(b"q", ReadMode.OPEN, reads)[1] for _ in range(3)]
            first, second, third = (each[1] for each in found if each is not None)
            assert first is not None
            assert second is not None
            assert third is not None
            with pytest.raises(KeyError):
                ClientReads(10).confirm(first)
            with pytest.raises(KeyError):
                ClientReads(10).abort(first)
            await Settled(reads.confirm(second)).wait()
            reads.abort(third)
            with pytest.raises(KeyError):
                reads.confirm(third)
            await Settled(reads.confirm_oldest(b"q")).wait()
            assert opened(broker, reads) == b"3"
            assert opened(broker, reads) is None

    asyncio.run(scenario())


def test_the_limit_of_open_reads_is_per_queue(tmp_path: Path) -> None:
    """The next open is refused; a peek is not, and neither is another connection."""

    async def scenario() -> None:
        async with running(tmp_path) as broker:
            reads = ClientReads(2)
            await put(broker, b"1", b"2", b"3")
            opened(broker, reads)
            opened(broker, reads)
            with pytest.raises(TooManyReadsError):
                opened(broker, reads)
            _, found = broker.read(b"q", ReadMode.PEEK, reads)
            assert found is not None
            assert broker.read(b"other", ReadMode.OPEN, reads)[1] is None
            assert opened(broker, ClientReads(2)) == b"3"

    asyncio.run(scenario())


def test_an_open_waits_for_an_item(tmp_path: Path) -> None:
    """It gets the item as one of its open reads, before a later reader; one that left gets nothing."""

    async def scenario() -> None:
        async with running(tmp_path) as broker:
            reads, later = ClientReads(10), ClientReads(10)
            queue, found = broker.read(b"q", ReadMode.OPEN, reads)
            assert found is None
            left, waiting = WaitingOpen(reads), WaitingOpen(reads)
            queue.waiters.join(left)
            queue.waiters.join(waiting)
            queue.waiters.leave(left)
            await put(broker, b"1")
            assert (await asyncio.wait_for(waiting.got, 10)).data == b"1"
            assert not left.got.done()
            assert (len(reads), opened(broker, later)) == (1, None)
            evicted = WaitingOpen(reads)
            queue.waiters.join(evicted)
            broker.queues.evict()
            with pytest.raises(LookupError):
                await asyncio.wait_for(evicted.got, 10)

    asyncio.run(scenario())


def test_puts_that_the_queue_refuses(tmp_path: Path) -> None:
    """FULL may pass, TOO_LARGE never does; both count as a set and not as an item."""

    async def scenario() -> None:
        async with running(tmp_path, "[queues.q]\nmax_items = 1\nmax_item_bytes = 5\n") as broker:
            assert broker.put(b"q", b"123456", 0)[0] is PutOutcome.TOO_LARGE
            await put(broker, b"1")
            assert broker.put(b"q", b"2", 0)[0] is PutOutcome.FULL
            assert (broker.counters.cmd_set, broker.counters.total_items) == (3, 1)

    asyncio.run(scenario())


def test_waiting_large_items_hold_back_others_of_their_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While very many bytes wait, a put that would be written in parts, or behind them, waits; others do not."""
    monkeypatch.setattr(large_work, "WAITING_BYTES", 1 << 20)
    data = b"x" * (32 << 20)

    async def scenario() -> None:
        async with running(tmp_path) as broker:
            outcome, ticket, _ = broker.put(b"q", data, 0)
            assert outcome is PutOutcome.ACCEPTED
            assert broker.put(b"q", b"behind", 0)[:2] == (PutOutcome.CONGESTED, ticket)
            assert broker.put(b"other", data, 0)[:2] == (PutOutcome.CONGESTED, ticket)
            assert ticket is not None
            small = broker.put(b"third", b"1", 0)
            assert small[0] is PutOutcome.ACCEPTED
            await Settled(small[1]).wait()
            assert not ticket.done
            assert broker.counters.cmd_set == 2

    asyncio.run(scenario())


def test_the_status_refuses_operations(tmp_path: Path) -> None:
    """READONLY refuses puts, QUIESCENT reads, too; both settle what is open."""

    async def scenario() -> None:
        async with running(tmp_path) as broker:
            reads = ClientReads(10)
            await put(broker, b"1", b"2")
            opened(broker, reads)
            broker.set_status("readonly")
            with pytest.raises(UnavailableError, match=r"^readonly$"):
                broker.put(b"q", b"3", 0)
            opened(broker, reads)
            broker.set_status("quiescent")
            with pytest.raises(UnavailableError, match=r"^quiescent$"):
                opened(broker, reads)
            await Settled(reads.confirm_oldest(b"q")).wait()
            reads.abort_oldest(b"q")
            assert broker.queues.get(b"q").backlog.items == 1

    asyncio.run(scenario())
