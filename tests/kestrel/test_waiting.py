"""Parked polls: few connections, first come first served, and no item lost to a poll that went away."""

import asyncio
import contextlib
import time
from itertools import pairwise

import pytest

from gateway.errors import BackendRefused, BackendUnavailable
from gateway.kestrel.counters import Counters
from gateway.kestrel.polls.queues import SWEPT, PolledQueues
from gateway.kestrel.polls.values import MOVES, WaiterPhase
from tests.kestrel.standin import Manners, StandIn, answer, hang_up, siberite
from tests.kestrel.support import client, until
from tests.lab.examples import examples
from tests.lab.waiting import undisturbed


def test_the_table_ends_where_the_wait_ends():
    """Nothing follows an ended wait or a fetched item."""
    assert MOVES[WaiterPhase.SERVED] == MOVES[WaiterPhase.ENDED] == frozenset()


def test_an_item_at_hand_takes_one_question():
    """With items on the queue one get and no wait is all it takes."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            server.append("q", b"x")
            sent = len(server.log)
            read = await kestrel.wait("q", 20).result()
            assert read.data == b"x"
            assert len([line for line in server.log[sent:] if line.startswith("get")]) == 1
            await read.confirm()

    asyncio.run(main())


def test_an_empty_wait_ends_in_its_time_and_was_really_asked():
    """None comes at the deadline, not before and not much later; the server saw a get of about that length."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            took_s = []
            for _ in range(3):
                started = time.monotonic()
                assert await kestrel.wait("q", 0.2).result() is None
                took_s.append(time.monotonic() - started)
            assert 0.19 < min(took_s) < 0.5, "a busy machine may delay a wait, but not each"
            waits = [int(line.split("t=")[1].split("/")[0]) for line in server.log if "t=" in line]
            assert all(0 < wait <= 200 for wait in waits)

    asyncio.run(main())


def test_timeout_zero_asks_once():
    """Nothing there: one get without a wait. Something there: it is taken."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            assert await kestrel.wait("q", 0).result() is None
            assert server.log[-1] == "get q/open"
            server.append("q", b"x")
            read = await kestrel.wait("q", 0).result()
            assert read.data == b"x"
            read.give_back()

    asyncio.run(main())


def test_timeout_zero_does_not_overtake_who_waits():
    """What a poll that asks once brings belongs to the poll that was parked before it."""

    async def main():
        async with StandIn(Manners(waits=False)) as server, client(server.address) as kestrel:
            parked = kestrel.wait("q", 5)
            await until(lambda: len(server.log) > 6)
            server.queues["q"].append(b"first")
            at_once = kestrel.wait("q", 0)
            assert await at_once.result() is None
            read = await parked.result()
            assert read.data == b"first"
            read.give_back()

    asyncio.run(main())


def test_a_hundred_questions_at_once_use_few_connections():
    """Polls that ask once share the bounded gets of their queue and each gets its own answer."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            for i in range(30):
                server.append("q", b"%d" % i)
            reads = await asyncio.gather(*(kestrel.wait("q", 0).result() for _ in range(100)))
            got = [read for read in reads if read is not None]
            assert [read.data for read in got] == [b"%d" % i for i in range(30)]
            assert server.accepted <= 30 + 16
            for read in got:
                await read.confirm()

    asyncio.run(main())


def test_parked_polls_share_few_gets_and_are_served_in_order():
    """Many polls share at most `kestrel_waits` gets, and the n-th item goes to the n-th poll."""

    async def main():
        async with StandIn() as server, client(server.address, kestrel_waits=4) as kestrel:
            waiters = [kestrel.wait("q", 20) for _ in range(150)]
            tasks = [asyncio.ensure_future(waiter.result()) for waiter in waiters]
            await until(lambda: len(server.waiters.get("q", ())) == 4)
            assert kestrel.statistics().connections < 10
            for i in range(150):
                server.append("q", b"%d" % i)
            reads = await asyncio.gather(*tasks)
            assert [read.data for read in reads] == [b"%d" % i for i in range(150)]
            assert kestrel.statistics().pinned == 150
            await asyncio.gather(*(read.confirm() for read in reads))
            assert len(server.confirmed) == 150
            assert kestrel.statistics().connections <= 64 + 8

    asyncio.run(main())


def test_polls_that_vanish_close_nothing_and_lose_nothing():
    """Many times a parked poll goes away just when its item comes; each item reaches the next poll."""
    count = examples(200)

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            for i in range(count):
                task = asyncio.ensure_future(kestrel.wait("q", 20).result())
                await until(lambda: server.waiters.get("q"))
                server.append("q", b"%d" % i)
                for _ in range(i % 7):
                    await asyncio.sleep(0)
                task.cancel()
                try:
                    read = await task
                except asyncio.CancelledError:
                    async with asyncio.timeout(15):
                        read = await kestrel.wait("q", 5).result()
                assert read.data == b"%d" % i
                await read.confirm()
            assert [data for _, data in server.confirmed] == [b"%d" % i for i in range(count)]
            assert server.accepted < 20
            assert kestrel.statistics().pinned == 0

    asyncio.run(main())


def test_a_cancelled_poll_at_every_step():
    """Cancelled after any number of steps, a poll leaves the line and its item goes to another."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            for steps in range(1, 13):
                server.append("q", b"x")
                task = asyncio.ensure_future(kestrel.wait("q", 20).result())
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                try:
                    read = await task
                except asyncio.CancelledError:
                    assert kestrel.statistics().waiters == 0
                    async with asyncio.timeout(15):
                        read = await kestrel.wait("q", 20).result()
                await read.confirm()
            assert len(server.confirmed) == 12
            assert kestrel.statistics().pinned == 0

    asyncio.run(main())


def test_cancel_ends_a_wait_at_once_from_a_callback():
    """`cancel` is synchronous and idempotent; the wait answers None and leaves the line."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            waiter = kestrel.wait("q", 20)
            task = asyncio.ensure_future(waiter.result())
            await asyncio.sleep(0)
            waiter.cancel()
            waiter.cancel()
            assert kestrel.statistics().waiters == 0
            async with asyncio.timeout(15):
                assert await task is None
            untouched = kestrel.wait("q", 20)
            untouched.cancel()
            assert await untouched.result() is None

    asyncio.run(main())


def test_a_get_that_does_not_wait_counts_as_taking():
    """The item of a poll's first get is counted, and so is a first get that fails without an answer."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            server.append("q", b"x")
            await (await kestrel.wait("q", 1).result()).confirm()
            found = kestrel.statistics()
            assert (found.items_taken, found.waits_sent, found.waits_cut) == (1, 0, 0)
            server.append("q", b"y")
            server.manners.once("get", hang_up)
            await (await kestrel.wait("q", 1).result()).confirm()
            found = kestrel.statistics()
            assert (found.items_taken, found.waits_sent, found.waits_cut) == (2, 0, 1)

    asyncio.run(main())


def test_an_item_given_but_not_fetched_goes_to_the_next():
    """A waiter that is cancelled, or never fetches, passes its item on before its deadline is forgotten."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            first = kestrel.wait("q", 20)
            second = kestrel.wait("q", 20)
            await until(lambda: server.waiters.get("q"))
            server.append("q", b"x")
            await until(lambda: kestrel.statistics().items_taken == 1)
            first.cancel()
            assert await first.result() is None
            read = await second.result()
            assert read.data == b"x"
            await read.confirm()
            forgotten = kestrel.wait("q", 0.2)
            server.append("q", b"y")
            await until(lambda: kestrel.statistics().pinned == 1)
            await until(lambda: list(server.queues["q"]) == [b"y"])
            assert await forgotten.result() is None
            assert kestrel.statistics().given_back_unserved == 1

    asyncio.run(main())


def test_an_item_for_nobody_is_given_back_by_abort():
    """A get that outlives its poll hands its item back at once and its connection is kept."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            waiter = kestrel.wait("q", 20)
            await until(lambda: server.waiters.get("q"))
            waiter.cancel()
            assert server.waiters["q"]
            server.append("q", b"x")
            await until(lambda: server.log[-1] == "get q/abort")
            await until(lambda: list(server.queues["q"]) == [b"x"])
            assert kestrel.statistics().given_back_unserved == 1
            assert all(not session.closed for session in server.sessions)

    asyncio.run(main())


def test_an_item_lost_before_it_was_fetched_does_not_end_the_poll():
    """When the connection dies between answer and fetch, the poll is first in line again."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            waiter = kestrel.wait("q", 20)
            await until(lambda: server.waiters.get("q"))
            server.append("q", b"x")
            await until(lambda: kestrel.statistics().items_taken == 1)
            behind = kestrel.wait("q", 20)
            next(session for session in server.sessions if session.held).transport.abort()
            await until(lambda: kestrel.statistics().lost_reads == 1)
            server.append("q", b"y")
            results = await asyncio.gather(waiter.result(), behind.result())
            assert {read.data for read in results} == {b"x", b"y"}
            for read in results:
                await read.confirm()

    asyncio.run(main())


def test_a_waiter_whose_item_was_lost_is_first_again():
    """The next item is its own, although another poll waits behind it."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            waiter = kestrel.wait("q", 20)
            await until(lambda: server.waiters.get("q"))
            server.append("q", b"gone")
            await until(lambda: kestrel.statistics().items_taken == 1)
            behind = asyncio.ensure_future(kestrel.wait("q", 20).result())
            session = next(session for session in server.sessions if session.held)
            session.held.clear()
            session.transport.abort()
            await until(lambda: kestrel.statistics().lost_reads == 1)
            first = asyncio.ensure_future(waiter.result())
            await until(lambda: kestrel.statistics().waiters == 2)
            server.append("q", b"y")
            server.append("q", b"z")
            reads = await asyncio.gather(first, behind)
            assert [read.data for read in reads] == [b"y", b"z"]
            for read in reads:
                await read.confirm()

    asyncio.run(main())


def test_a_closed_client_ends_every_wait():
    """Parked, given but not fetched, or begun too late: each wait ends at once, and the item is back."""

    async def main():
        async with StandIn() as server:
            async with client(server.address) as kestrel:
                given = kestrel.wait("q", 20)
                parked = kestrel.wait("other", 20)
                await until(lambda: server.waiters.get("q"))
                server.append("q", b"x")
                await until(lambda: kestrel.statistics().items_taken == 1)
                assert kestrel.statistics().waited_queues == 2
            late = [kestrel.wait("q", timeout_s) for timeout_s in (0, 20)]
            async with asyncio.timeout(15):
                for waiter in (given, parked, *late):
                    with pytest.raises(BackendUnavailable):
                        await waiter.result()
            await until(lambda: list(server.queues["q"]) == [b"x"])

    asyncio.run(main())


def test_polls_are_armed_as_soon_as_the_server_is_back():
    """The pauses of a long absence do not outlive it."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            task = asyncio.ensure_future(kestrel.wait("q", 20).result())
            await until(lambda: server.waiters.get("q"))
            await server.stop()
            await asyncio.sleep(1.6)
            await server.open()
            while not kestrel.available:
                with contextlib.suppress(BackendUnavailable):
                    await kestrel.put("another", b"x")
                await asyncio.sleep(0.001)
            await until(lambda: server.waiters.get("q"), 0.1)
            server.append("q", b"x")
            await (await task).confirm()

    asyncio.run(main())


def test_a_get_cut_before_its_time_is_armed_again():
    """A server that closes the blocked connections does not end the polls."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            tasks = [asyncio.ensure_future(kestrel.wait("q", 20).result()) for _ in range(3)]
            for _ in range(4):
                await until(lambda: len(server.waiters.get("q", ())) == 3)
                cut = kestrel.statistics().waits_cut + 3
                for session in list(server.waiters["q"]):
                    session.transport.abort()
                await until(lambda cut=cut: kestrel.statistics().waits_cut >= cut)
            await until(lambda: server.waiters.get("q"))
            for i in range(3):
                server.append("q", b"%d" % i)
            reads = await asyncio.gather(*tasks)
            assert [read.data for read in reads] == [b"0", b"1", b"2"]
            for read in reads:
                await read.confirm()

    asyncio.run(main())


def test_a_server_that_always_cuts_is_not_asked_in_a_hot_loop():
    """Cut again and again, the gets come after growing pauses."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            for _ in range(1000):
                server.manners.once("get", hang_up)
            with pytest.raises(BackendUnavailable):
                await kestrel.wait("q", 0.6).result()
            assert 3 < sum(line.startswith("get") for line in server.log) < 25

    asyncio.run(main())


def test_polls_live_through_a_restart():
    """The server goes away and comes back on its address: the polls stay and get the next items."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            tasks = [asyncio.ensure_future(kestrel.wait("q", 20).result()) for _ in range(5)]
            await until(lambda: len(server.waiters.get("q", ())) == 5)
            await server.stop()
            await until(lambda: not kestrel.available)
            await server.open()
            await until(lambda: kestrel.available)
            for i in range(5):
                server.append("q", b"%d" % i)
            reads = await asyncio.gather(*tasks)
            assert [read.data for read in reads] == [b"%d" % i for i in range(5)]
            for read in reads:
                await read.confirm()

    asyncio.run(main())


@pytest.mark.parametrize("timeout_s", [0, 0.15])
def test_a_wait_that_nobody_could_be_asked_for_is_no_empty_queue(timeout_s):
    """With no server there the wait raises at its end; it does not say that the queue is empty."""

    async def main():
        server = StandIn()
        async with server:
            pass
        async with client(server.address, ready=False) as kestrel, asyncio.timeout(15):
            with pytest.raises(BackendUnavailable):
                await kestrel.wait("q", timeout_s).result()

    asyncio.run(main())


def test_a_refusing_server_is_told_as_such():
    """SERVER_ERROR to a get is a refusal, not an empty queue."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            for _ in range(50):
                server.manners.once("get", answer(b"SERVER_ERROR quiescent\r\n", close=True))
            for timeout_s in (0, 0.2):
                with pytest.raises(BackendRefused):
                    await kestrel.wait("q", timeout_s).result()

    asyncio.run(main())


def test_a_stale_connection_costs_a_question_nothing():
    """A get on a connection that turns out dead is repeated once."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            server.append("q", b"x")
            server.manners.once("get", hang_up)
            read = await kestrel.wait("q", 0).result()
            assert read.data == b"x"
            await read.confirm()
            server.manners.once("get", hang_up)
            assert (await kestrel.peek("q")).result is None

    asyncio.run(main())


@pytest.mark.parametrize("manners", [siberite(), Manners(version="9.9-unheard-of", waits=False)])
def test_a_server_that_ignores_the_wait_is_asked_in_slices(manners):
    """Siberite, or any server that answers END at once, is polled slowly; the item still comes soon."""

    async def main():
        async with StandIn(manners) as server, client(server.address) as kestrel:
            started = time.monotonic()
            waiter = kestrel.wait("q", 20)
            await until(lambda: sum(line.startswith("get") for line in server.log) == 8, 10)
            assert time.monotonic() - started > 0.1, "it is asked all the time"
            server.append("q", b"x")
            async with asyncio.timeout(10):
                await (await waiter.result()).confirm()
            assert await kestrel.wait("q", 0.3).result() is None

    asyncio.run(main())


def test_a_deleted_queue_does_not_end_the_polls():
    """`delete` wakes the blocked gets with END: they are armed again."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            task = asyncio.ensure_future(kestrel.wait("q", 20).result())
            for _ in range(3):
                await until(lambda: server.waiters.get("q"))
                await kestrel.delete("q")
            await kestrel.put("q", b"x")
            read = await task
            assert read.data == b"x"
            await read.confirm()

    asyncio.run(main())


@undisturbed(0.1)
def test_waits_stay_below_the_idle_limit():
    """No get waits longer than half of the server's limit for quiet connections."""

    async def main():
        async with StandIn() as server, client(server.address, kestrel_idle_timeout_s=0.4) as kestrel:
            assert await kestrel.wait("q", 1).result() is None
            waits = [int(line.split("t=")[1].split("/")[0]) for line in server.log if "t=" in line]
            assert len(waits) >= 4
            assert max(waits) <= 200

    asyncio.run(main())


@undisturbed(0.05)
def test_a_frozen_server_is_noticed_while_polls_are_parked():
    """Blocked gets look the same on a frozen server: a ping finds it out, and the wait is not called empty."""

    async def main():
        async with (
            StandIn() as server,
            client(server.address, kestrel_command_timeout_s=0.1, kestrel_connect_timeout_s=0.1) as kestrel,
        ):
            task = asyncio.ensure_future(kestrel.wait("q", 0.8).result())
            await until(lambda: server.waiters.get("q"))
            server.manners.frozen = True
            await until(lambda: not kestrel.available)
            with pytest.raises(BackendUnavailable):
                await task
            server.thaw()
            await until(lambda: kestrel.available)
            await kestrel.put("q", b"x")
            read = await kestrel.wait("q", 1).result()
            await read.confirm()

    asyncio.run(main())


def test_no_queue_leaves_anything_behind():
    """Many queues polled once each: nothing is kept for any of them."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            for i in range(100):
                assert await kestrel.wait(f"q{i}", 0).result() is None
            await asyncio.gather(*(kestrel.wait(f"w{i}", 0.5).result() for i in range(50)))
            await until(lambda: kestrel.statistics().waited_queues == 0)
            assert kestrel.statistics().open_waits == 0

    asyncio.run(main())


def test_those_who_ask_at_the_same_time_share_an_answer():
    """An END answers every poll that came before its get was sent, and none that came later."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            sent = len(server.log)
            answers = await asyncio.gather(*(kestrel.wait("q", 0).result() for _ in range(100)))
            assert answers == [None] * 100
            assert len(server.log) - sent < 30
            for number in range(20):
                server.append("q", b"%d" % number)
            reads = await asyncio.gather(*(kestrel.wait("q", 0).result() for _ in range(30)))
            assert sorted(int(read.data) for read in reads if read is not None) == list(range(20))
            for read in reads:
                if read is not None:
                    await read.confirm()

    asyncio.run(main())


def test_one_who_asks_behind_a_poll_that_left_gets_the_item():
    """The get of a vanished poll is still pending: its item goes to a poll without a wait, and is not lost."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            for number in range(examples(100)):
                left = kestrel.wait("q", 20)
                await until(lambda: server.waiters.get("q"))
                left.cancel()
                await kestrel.put("q", b"%d" % number)
                read = await kestrel.wait("q", 0).result()
                assert read is not None, number
                assert read.data == b"%d" % number
                await read.confirm()

    asyncio.run(main())


def test_those_who_keep_asking_gather():
    """Thirty who ask again and again share gets: far fewer are sent than polls answered; one alone never waits."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:

            async def ask(times):
                for _ in range(times):
                    assert await kestrel.wait("q", 0).result() is None

            sent = len(server.log)
            await asyncio.gather(*(ask(40) for _ in range(30)))
            assert len(server.log) - sent < 30 * 40 / 5
            took_s = []
            for _ in range(3):
                started = time.monotonic()
                await ask(100)
                took_s.append(time.monotonic() - started)
            assert min(took_s) < 1, "a busy machine may delay the questions, but not each time"

    asyncio.run(main())


def test_waits_that_end_at_the_same_time_cost_one_command_each(monkeypatch):
    """Gets that wait prove nothing by themselves: each queue is asked once more, and all waits end in their time."""
    monkeypatch.setattr("gateway.kestrel.server.queue_gets.WAIT_S", 30.0)  # all eighty gets are there at one moment

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            longer = [kestrel.wait(f"q{i}", 20) for i in range(40)]
            shorter = [kestrel.wait(f"q{i}", 3) for i in range(40)]
            await until(lambda: sum(map(len, server.waiters.values())) == 80)
            asked = len(server.log)
            async with asyncio.timeout(10):
                assert await asyncio.gather(*(each.result() for each in shorter)) == [None] * 40
            assert len([line for line in server.log[asked:] if "t=" not in line]) <= 40 + 2
            for each in longer:
                each.cancel()

    asyncio.run(main())


def test_queues_without_polls_are_forgotten_a_few_in_a_turn():
    """A thousand that were polled together."""

    async def main():
        polled = PolledQueues((), 1, 1.0, Counters())
        for number in range(4 * SWEPT):
            with pytest.raises(BackendUnavailable):
                await polled.wait(str(number), 0).result()
        left = [len(polled._runners)]
        assert left == [4 * SWEPT]
        async with asyncio.timeout(10):
            while left[-1]:
                await asyncio.sleep(0)
                left.append(len(polled._runners))
        assert max(before - after for before, after in pairwise(left)) == SWEPT

    asyncio.run(main())


def test_statistics_of_many_queues_are_asked_in_small_questions():
    """No answer takes long to read."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            keys = [f"{number:064}" for number in range(100)]
            for key in keys:
                server.append(key, b"x")
            assert set((await kestrel.queue_stats(*keys)).queues) == set(keys)
            asked = [line.split()[1:] for line in server.log if line.startswith("dump_stats ")]
            assert sorted(key for question in asked for key in question) == keys
            assert max(map(len, asked)) <= 8

    asyncio.run(main())
