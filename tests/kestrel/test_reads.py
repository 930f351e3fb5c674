"""Open reads: confirmed with proof, given back, or lost with their connection."""

import asyncio

import pytest

from gateway.errors import BackendRefused, LeaseLost, OutcomeUnknown
from gateway.kestrel.server.read_of_server import MOVES, ReadState
from tests.kestrel.standin import Manners, StandIn, answer, darner, hang_up, reset, siberite, silence
from tests.kestrel.support import cancel_after, client, until
from tests.lab.waiting import undisturbed


async def held(kestrel, server, data=b"job"):
    """An open read of an item of its own."""
    server.append("q", data)
    read = await kestrel.wait("q", 5).result()
    assert read.data == data
    return read


def test_the_table_ends_where_the_item_is_settled_or_lost():
    """Nothing follows a settlement or a loss."""
    assert MOVES[ReadState.SETTLED] == MOVES[ReadState.LOST] == frozenset()


@pytest.mark.parametrize("manners", [Manners(), Manners(chop=True), darner(), siberite()])
def test_a_confirmed_item_is_gone_and_its_connection_is_kept(manners):
    """On every server the item is gone for good and no connection is spent."""

    async def main():
        async with StandIn(manners) as server, client(server.address) as kestrel:
            for i in range(20):
                read = await held(kestrel, server, b"%d" % i)
                await read.confirm()
            assert [data for _, data in server.confirmed] == [b"%d" % i for i in range(20)]
            assert not server.queues["q"]
            assert kestrel.statistics().pinned == 0
            assert server.accepted < 8

    asyncio.run(main())


def test_an_aborted_item_is_back_at_the_head_and_its_connection_is_kept():
    """`abort` puts the item before all others."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            read = await held(kestrel, server)
            server.append("q", b"later")
            await read.abort()
            assert list(server.queues["q"]) == [b"job", b"later"]
            await read.abort()
            read.give_back()
            assert list(server.queues["q"]) == [b"job", b"later"]
            assert all(not session.closed for session in server.sessions)

    asyncio.run(main())


@pytest.mark.parametrize("act", [hang_up, reset, silence, answer(b"ERROR\r\n", close=True), answer(b"EN", close=True)])
@undisturbed(0.05)
def test_an_abort_that_fails_gives_back_by_closing(act):
    """Whatever happens to an abort, the item is back and nothing is raised."""

    async def main():
        async with StandIn() as server, client(server.address, kestrel_command_timeout_s=0.1) as kestrel:
            read = await held(kestrel, server)
            server.manners.once("get", act)
            await read.abort()
            await until(lambda: list(server.queues["q"]) == [b"job"])
            assert kestrel.statistics().pinned == 0

    asyncio.run(main())


def test_give_back_is_immediate():
    """Closing the connection gives the item back."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            read = await held(kestrel, server)
            lost = []
            read.on_lost(lambda: lost.append(1))
            read.give_back()
            read.give_back()
            await until(lambda: list(server.queues["q"]) == [b"job"])
            assert lost == []
            with pytest.raises(RuntimeError):
                await read.confirm()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (answer(b"ERROR\r\n"), LeaseLost),
        (hang_up, OutcomeUnknown),
        (reset, OutcomeUnknown),
        (silence, OutcomeUnknown),
        (answer(b"END\r\nEND\r\n"), OutcomeUnknown),
        (answer(b"STORED\r\n"), OutcomeUnknown),
        (answer(b"SERVER_ERROR disk\r\n"), BackendRefused),
        (answer(b"E", close=True), OutcomeUnknown),
    ],
)
@undisturbed(0.05)
def test_a_confirm_without_its_proof_raises_what_is_known(act, error):
    """Only END proves it; the connection is closed otherwise, so that the item cannot stay set aside."""

    async def main():
        async with StandIn() as server, client(server.address, kestrel_command_timeout_s=0.1) as kestrel:
            read = await held(kestrel, server)
            server.manners.once("confirm", act)
            with pytest.raises(error):
                await read.confirm()
            await until(lambda: list(server.queues["q"]) == [b"job"])
            assert kestrel.statistics().pinned == 0
            assert kestrel.statistics().lost_reads == 0

    asyncio.run(main())


@pytest.mark.parametrize("how", [hang_up, reset])
def test_a_lost_connection_is_told_at_once(how):
    """EOF on the pinned connection calls back within milliseconds; later settlements say so."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            read = await held(kestrel, server)
            calls = []
            read.on_lost(lambda: calls.append("first"))
            read.on_lost(lambda: calls.append("second"))
            how(next(session for session in server.sessions if session.held))
            await until(lambda: calls)
            assert calls == ["first", "second"]
            assert read.lost
            read.on_lost(lambda: calls.append("late"))
            assert calls[-1] == "late"
            with pytest.raises(LeaseLost):
                await read.confirm()
            await read.abort()
            read.give_back()
            assert kestrel.statistics().lost_reads == 1

    asyncio.run(main())


@pytest.mark.parametrize("chop", [False, True])
def test_a_cancelled_settlement_closes_its_connection(chop):
    """Cancelled at any step, a confirm or abort leaves no connection that a late answer could confuse."""

    async def main():
        async with StandIn(Manners(chop=chop)) as server, client(server.address) as kestrel:
            for settle in ("confirm", "abort"):
                for steps in range(10):
                    read = await held(kestrel, server)
                    await cancel_after(steps, getattr(read, settle)())
                    if steps == 0:
                        read.give_back()
                    await until(lambda: kestrel.statistics().pinned == 0)
                    await until(lambda: not any(session.held for session in server.sessions))
                    server.queues["q"].clear()
                    assert (await kestrel.peek("q")).result is None

    asyncio.run(main())


def test_two_settlements_at_once_are_refused():
    """A second confirm while the first is under way raises; the first is not disturbed."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            read = await held(kestrel, server)
            first = asyncio.ensure_future(read.confirm())
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError):
                await read.confirm()
            await read.abort()
            await first
            assert server.confirmed == [("q", b"job")]

    asyncio.run(main())


def test_giving_back_during_a_confirm_makes_it_unknown():
    """A confirm whose connection is closed under it does not claim anything."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            read = await held(kestrel, server)
            server.manners.once("confirm", silence)
            confirm = asyncio.ensure_future(read.confirm())
            await until(lambda: server.log[-1].startswith("confirm"))
            read.give_back()
            with pytest.raises(OutcomeUnknown):
                await confirm
            await until(lambda: list(server.queues["q"]) == [b"job"])

    asyncio.run(main())


@undisturbed(0.1)
def test_pinned_connections_are_pinged_and_can_be_settled_meanwhile():
    """Below the server's limit for quiet connections the version is asked; a confirm waits for that answer."""

    async def main():
        async with StandIn() as server, client(server.address, kestrel_idle_timeout_s=0.3) as kestrel:
            read = await held(kestrel, server)
            pings = kestrel.statistics().pings
            await until(lambda: kestrel.statistics().pings > pings + 6)
            assert not read.lost
            server.manners.frozen = True
            sent = len(server.log)
            session = next(session for session in server.sessions if session.held)
            await until(lambda: b"version" in session.buffer)
            confirm = asyncio.ensure_future(read.confirm())
            await asyncio.sleep(0.01)
            assert not confirm.done()
            server.thaw()
            await confirm
            assert "confirm q 1" in server.log[sent:]

    asyncio.run(main())


def test_closing_the_client_gives_every_item_back():
    """`close` with leases open and waits parked: all items are back, all waits have ended."""

    async def main():
        async with StandIn() as server:
            async with client(server.address) as kestrel:
                for i in range(5):
                    await held(kestrel, server, b"%d" % i)
                waiter = asyncio.ensure_future(kestrel.wait("q", 20).result())
                await until(lambda: server.waiters.get("q"))
            with pytest.raises(Exception, match="shutting down"):
                await waiter
            await until(lambda: len(server.queues["q"]) == 5)

    asyncio.run(main())


def test_a_refused_confirm_is_no_unknown_outcome():
    """SERVER_ERROR is an answer: the item was not confirmed, it goes back, and the server still counts as up."""

    async def main():
        manners = Manners()
        async with StandIn(manners) as server, client(server.address) as kestrel:
            read = await held(kestrel, server)
            manners.once("confirm", answer(b"SERVER_ERROR cannot write: full\r\n", close=True))
            with pytest.raises(BackendRefused, match="cannot write: full"):
                await read.confirm()
            await until(lambda: list(server.queues["q"]) == [b"job"])
            assert kestrel.available

    asyncio.run(main())
