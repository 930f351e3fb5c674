"""Puts: success only for STORED, and for everything else what is known of the outcome."""

import asyncio

import pytest

from gateway.errors import BackendRefused, BackendUnavailable, OutcomeUnknown, QueueFull
from gateway.kestrel.server.memcache_link import BATCH_ITEMS
from tests.kestrel.standin import Manners, StandIn, answer, hang_up, reset, silence
from tests.kestrel.support import cancel_after, client, until
from tests.lab.waiting import undisturbed


def test_a_put_is_stored_byte_for_byte():
    """Any bytes arrive as they are."""

    async def main():
        items = [b"", b"x", b"\r\nEND\r\n", bytes(range(256)), "né 🐦".encode(), b"y" * 1_000_000]
        async with StandIn() as server, client(server.address) as kestrel:
            for item in items:
                await kestrel.put("q", item)
            assert list(server.queues["q"]) == items

    asyncio.run(main())


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (answer(b"NOT_STORED\r\n"), QueueFull),
        (answer(b"SERVER_ERROR read-only\r\n", close=True), BackendRefused),
        (answer(b"ERROR\r\n", close=True), OutcomeUnknown),
        (answer(b"CLIENT_ERROR\r\n", close=True), OutcomeUnknown),
        (answer(b"STOR", close=True), OutcomeUnknown),
        (answer(b"STORED\r\nSTORED\r\n"), OutcomeUnknown),
        (answer(b"END\r\n"), OutcomeUnknown),
        (hang_up, OutcomeUnknown),
        (reset, OutcomeUnknown),
        (silence, OutcomeUnknown),
    ],
)
@undisturbed(0.03)
def test_whatever_is_not_stored_raises_what_is_known(act, error):
    """Each bad answer has its error, and the next put on the same client is well."""

    async def main():
        async with StandIn() as server, client(server.address, kestrel_command_timeout_s=0.1) as kestrel:
            server.manners.once("set", act)
            with pytest.raises(error) as raised:
                await kestrel.put("q", b"x")
            assert type(raised.value) is error
            await until(lambda: kestrel.available)
            await kestrel.put("q", b"y")
            assert list(server.queues["q"]) == [b"y"]

    asyncio.run(main())


def test_a_put_that_never_left_is_unavailable_and_not_unknown():
    """A server that reads nothing got no whole command: the put surely did not happen."""

    async def main():
        async with StandIn() as server, client(server.address, kestrel_command_timeout_s=0.2) as kestrel:
            for session in server.sessions:
                session.transport.pause_reading()
            with pytest.raises(BackendUnavailable):
                await kestrel.put("q", b"x" * (32 << 20))
            assert "q" not in server.queues

    asyncio.run(main())


def test_nobody_there_is_unavailable():
    """Where nothing listens nothing was sent, and the answer comes at once."""

    async def main():
        server = StandIn()
        async with server:
            pass
        async with client(server.address, ready=False) as kestrel, asyncio.timeout(15):
            for _ in range(50):
                with pytest.raises(BackendUnavailable):
                    await kestrel.put("q", b"x")
            assert not kestrel.available
            assert kestrel.backends()[0].last_error
            assert kestrel.statistics().connect_failures < 10

    asyncio.run(main())


@pytest.mark.parametrize("chop", [False, True])
def test_a_cancelled_put_never_answers_the_next_one(chop):
    """Cancelled after any number of steps, no connection is reused whose answer is still to come."""

    async def main():
        async with StandIn(Manners(chop=chop)) as server, client(server.address) as kestrel:
            for steps in range(15):
                await cancel_after(steps, kestrel.put("q", b"cancelled"))
                server.max_items = 0
                with pytest.raises(QueueFull):
                    await kestrel.put("full", b"x")
                server.max_items = 1 << 30
                assert (await kestrel.peek("nothing")).result is None
            assert kestrel.statistics().pinned == 0

    asyncio.run(main())


def test_closing_with_puts_under_way_leaves_none_without_an_outcome():
    """Sent, waiting for a connection, or just begun: each put ends when the client closes."""

    async def main():
        async with StandIn() as server:
            async with client(server.address) as kestrel:
                server.manners.frozen = True
                sent = [asyncio.ensure_future(kestrel.put("q", b"x")) for _ in range(3)]
                await until(lambda: any(b"set" in session.buffer for session in server.sessions))
                begun = asyncio.ensure_future(kestrel.put("q", b"y"))
                await asyncio.sleep(0)
            assert all(put.done() for put in sent)
            for put, error in [*((put, OutcomeUnknown) for put in sent), (begun, BackendUnavailable)]:
                async with asyncio.timeout(15):
                    with pytest.raises(error):
                        await put

    asyncio.run(main())


def test_cancelling_while_connecting_keeps_the_connection():
    """A caller that gives up while a connection is opened leaves it to the pool."""

    async def main():
        async with StandIn() as server, client(server.address, ready=False) as kestrel:
            for steps in range(30):
                await cancel_after(steps, kestrel.put("q", b"x"))
            await until(lambda: kestrel.available)
            await kestrel.put("q", b"last")
            assert server.queues["q"][-1] == b"last"

    asyncio.run(main())


def test_many_puts_keep_their_order_and_each_has_an_outcome():
    """A batch larger than a write arrives in order; an empty one sends nothing."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            items = [(b"%d" % i * 1000, 0) for i in range(1000)]
            assert await kestrel.put_many("q", items) == [None] * 1000
            assert list(server.queues["q"]) == [data for data, _ in items]
            assert await kestrel.put_many("q", []) == []
            server.max_items = 1003
            outcomes = await kestrel.put_many("q", items[:5])
            assert outcomes[:3] == [None] * 3
            assert [type(outcome) for outcome in outcomes[3:]] == [QueueFull] * 2

    asyncio.run(main())


def test_a_batch_that_is_cut_tells_each_item_apart():
    """Answered, sent without an answer, and never sent are three outcomes."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            for _ in range(3):
                server.manners.once("set", answer(b"STORED\r\n"))
            server.manners.once("set", hang_up)
            outcomes = await kestrel.put_many("q", [(b"x", 0)] * 100)
            assert outcomes[:3] == [None] * 3
            assert {type(outcome) for outcome in outcomes[3:64]} == {OutcomeUnknown}
            assert {type(outcome) for outcome in outcomes[64:]} == {BackendUnavailable}

    asyncio.run(main())


def test_what_stood_behind_a_refused_put_was_refused_with_it():
    """A server that refuses closes the connection: nothing behind the refusal was looked at."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            server.manners.once("set", answer(b"STORED\r\n"))
            server.manners.once("set", answer(b"SERVER_ERROR read-only\r\n"))
            server.manners.once("set", hang_up)
            outcomes = await kestrel.put_many("q", [(b"x", 0)] * 10)
            assert outcomes[0] is None
            assert {type(outcome) for outcome in outcomes[1:]} == {BackendRefused}

    asyncio.run(main())


@undisturbed(0.3)
def test_a_long_batch_has_the_time_of_each_part():
    """The deadline is for an answer: a batch of many parts, each in time, may take longer than that."""

    async def main():
        async with StandIn() as server, client(server.address, kestrel_command_timeout_s=1) as kestrel:
            server.delay_s = 0.006
            outcomes = await kestrel.put_many("q", [(b"x" * 100, 0)] * 256)
            assert outcomes == [None] * 256

    asyncio.run(main())


def test_many_puts_at_once_share_a_bounded_pool():
    """Callers beyond the connections in flight share them; all are stored."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            await asyncio.gather(*(kestrel.put("q", b"%d" % i) for i in range(300)))
            assert len(server.queues["q"]) == 300
            assert server.accepted <= 64 + 32

    asyncio.run(main())


def test_puts_gather_behind_two_batches_but_not_for_ever(monkeypatch):
    """While the server stores two batches the next puts join a third; it goes though neither is answered."""
    monkeypatch.setattr("gateway.kestrel.puts.batches.BATCH_WAIT_S", 0.3)

    async def main():
        async with StandIn() as server, client(server.address, kestrel_command_timeout_s=5) as kestrel:
            server.manners.frozen = True
            puts = []
            for number in range(12):
                puts.append(asyncio.ensure_future(kestrel.put("q", b"%d" % number)))
                await asyncio.sleep(0.001)
            batches = [session.buffer.count(b"set q") for session in server.sessions if b"set q" in session.buffer]
            assert sorted(batches) == [1, 1]
            await until(lambda: any(session.buffer.count(b"set q") == 10 for session in server.sessions))
            assert not any(put.done() for put in puts)

    asyncio.run(main())


def test_gathered_puts_go_as_soon_as_a_batch_is_answered(monkeypatch):
    """An answer makes room: what was gathered does not wait for its time."""
    monkeypatch.setattr("gateway.kestrel.puts.batches.BATCH_WAIT_S", 60)

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            server.manners.frozen = True
            puts = []
            for number in range(6):
                puts.append(asyncio.ensure_future(kestrel.put("q", b"%d" % number)))
                await asyncio.sleep(0.001)
            server.thaw()
            async with asyncio.timeout(20):
                await asyncio.gather(*puts)
            assert sorted(server.queues["q"]) == [b"%d" % number for number in range(6)]

    asyncio.run(main())


def test_many_questions_at_once_share_a_bounded_pool():
    """Commands use at most as many connections as the pool keeps; the others wait for their turn."""

    async def main():
        async with StandIn() as server, client(server.address, kestrel_pool_size=8) as kestrel:
            peeked = await asyncio.gather(*(kestrel.peek("q") for _ in range(300)))
            assert [each.result for each in peeked] == [None] * 300
            assert server.accepted <= 8 * 3

    asyncio.run(main())


def test_several_servers_share_the_puts_and_one_that_fails_is_passed_over():
    """Puts reach both servers; when one is gone the other takes them all."""

    async def main():
        async with StandIn() as one, StandIn() as two, client(one.address, two.address) as kestrel:
            for _ in range(60):
                await kestrel.put("q", b"x")
            assert one.queues["q"]
            assert two.queues["q"]
            await one.stop()
            before = len(two.queues["q"])
            await until(lambda: kestrel.backends()[0].state.value == "down")
            for _ in range(20):
                await kestrel.put("q", b"x")
            assert len(two.queues["q"]) == before + 20
            taken = [await kestrel.wait("q", 1).result() for _ in range(before + 20)]
            assert all(taken)
            assert kestrel.available

    asyncio.run(main())


def test_a_mountain_of_puts_delays_another_tenant_by_a_batch(monkeypatch):
    """Each tenant's puts travel in bounded batches of its own; a single put does not wait behind a thousand."""
    monkeypatch.setattr("gateway.kestrel.puts.batches.BATCH_WAIT_S", 60)

    async def main():
        async with StandIn() as server, client(server.address, tenant_of=lambda key: key[0]) as kestrel:
            mountain = [asyncio.ensure_future(kestrel.put("m", b"%d" % number)) for number in range(1000)]
            await asyncio.sleep(0)
            await kestrel.put("q", b"single")
            assert len(server.queues["m"]) <= 4 * BATCH_ITEMS
            await asyncio.gather(*mountain)

    asyncio.run(main())


def test_a_long_batch_keeps_its_order_over_several_connections():
    """Its parts are sent one after the other, however many batches may be under way: none overtakes another."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            server.manners.frozen = True
            items = [(b"%d" % number, 0) for number in range(20 * BATCH_ITEMS)]
            stored = asyncio.ensure_future(kestrel.put_many("q", items))
            await asyncio.sleep(0.05)
            server.sessions.reverse()
            server.thaw()
            assert await stored == [None] * len(items)
            assert list(server.queues["q"]) == [data for data, _ in items]

    asyncio.run(main())


def test_what_follows_a_part_that_broke_is_not_sent():
    """The connection ends in the first part: the rest of the batch surely was not stored, and says so."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            server.manners.once("set", hang_up)
            outcomes = await kestrel.put_many("q", [(b"%d" % number, 0) for number in range(3 * BATCH_ITEMS)])
            assert isinstance(outcomes[0], OutcomeUnknown)
            assert all(type(outcome) is BackendUnavailable for outcome in outcomes[BATCH_ITEMS:])
            assert all(int(data) < BATCH_ITEMS for data in server.queues["q"])

    asyncio.run(main())
