"""Several servers: health, writes that move on, waits over all of them, servers that come and go."""

import asyncio
import contextlib
import time
from collections import Counter

import pytest

from gateway.errors import (
    BackendRefused,
    BackendUnavailable,
    NotSupported,
    OutcomeUnknown,
    QueueFull,
    ServerNotFound,
    ServerUnavailable,
)
from gateway.kestrel.address import parse_address
from gateway.kestrel.health import Health
from gateway.kestrel.polls.rules import QUEUE_GETS
from tests.kestrel.standin import Manners, StandIn, answer, darner, hang_up
from tests.kestrel.support import client, until
from tests.lab.examples import examples
from tests.lab.waiting import undisturbed

FEW = 3


@contextlib.asynccontextmanager
async def servers(count=FEW, manners=Manners):
    """So many stand-ins."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(StandIn(manners())) for _ in range(count)]


def addresses(many):
    return [server.address for server in many]


def states(kestrel):
    return [backend.state for backend in kestrel.backends()]


# Health


def test_the_status_is_learnt_and_followed():
    """READONLY at the start is known; a change is noticed by looking again, also back to UP."""

    async def main():
        async with StandIn(Manners(status="READONLY")) as server, client(server.address, ready=False) as kestrel:
            await until(lambda: states(kestrel) == [Health.READONLY])
            assert kestrel.available
            assert kestrel.backends()[0].last_error == f"{server.address} is readonly"
            server.manners.status = "UP"
            await until(lambda: states(kestrel) == [Health.UP])
            assert kestrel.backends()[0].last_error == ""

    asyncio.run(main())


def test_a_refused_put_goes_to_the_next_server_and_the_refuser_is_looked_at():
    """The first put that is refused is stored elsewhere, and soon none is sent there any more."""

    async def main():
        async with servers(2) as (one, two), client(one.address, two.address) as kestrel:
            one.manners.status = "READONLY"
            for i in range(20):
                await kestrel.put("q", b"%d" % i)
            await until(lambda: states(kestrel) == [Health.READONLY, Health.UP])
            refused = sum(line.startswith("set") for line in one.log)
            assert refused
            for i in range(20, 40):
                await kestrel.put("q", b"%d" % i)
            assert len(two.queues["q"]) == 40
            assert sum(line.startswith("set") for line in one.log) == refused
            one.append("q", b"old")
            async with asyncio.timeout(20):
                taken = [await kestrel.wait("q", 1).result() for _ in range(41)]
            assert b"old" in {read.data for read in taken}, "what is on a read-only server is still delivered"

    asyncio.run(main())


def test_a_quiescent_server_is_asked_for_nothing_and_its_leases_end():
    """Gets are not sent, the wait's coverage says so, and what is set aside there is still confirmed."""

    async def main():
        async with servers(2) as (one, two), client(one.address, two.address) as kestrel:
            one.append("q", b"x")
            read = await kestrel.wait("q", 1).result()
            await kestrel.set_status(one.address, Health.QUIESCENT)
            assert states(kestrel) == [Health.QUIESCENT, Health.UP]
            sent = len(one.log)
            waiter = kestrel.wait("q", 0.05)
            assert await waiter.result() is None
            assert str(waiter.coverage) == "1/2"
            assert not [line for line in one.log[sent:] if line.startswith("get")]
            await read.confirm()
            assert one.confirmed == [("q", b"x")]
            one.append("q", b"y")
            parked = asyncio.ensure_future(kestrel.wait("q", 5).result())
            await until(lambda: two.waiters.get("q"))
            await kestrel.set_status(one.address, Health.UP)
            assert (await parked).data == b"y", "a parked poll is armed there as soon as it gives out items"

    asyncio.run(main())


def test_a_status_is_set_where_it_can_be():
    """No such server, one without `status`, and one that does not answer have different errors."""

    async def main():
        async with (
            StandIn() as kestrel_server,
            StandIn(darner()) as old,
            client(kestrel_server.address, old.address) as kestrel,
        ):
            with pytest.raises(ServerNotFound):
                await kestrel.set_status("nowhere:1", Health.READONLY)
            with pytest.raises(NotSupported):
                await kestrel.set_status(old.address, Health.READONLY)
            assert (await kestrel.set_status(kestrel_server.address, Health.READONLY)).state is Health.READONLY
            await kestrel_server.stop()
            await until(lambda: states(kestrel)[0] is Health.DOWN)
            with pytest.raises(ServerUnavailable, match=kestrel_server.address):
                await kestrel.set_status(kestrel_server.address, Health.UP)

    asyncio.run(main())


@undisturbed(0.2)
def test_a_frozen_server_is_down_within_its_deadline_and_delays_nobody_else():
    """Parked polls are served by the other servers, and puts go there after the first few."""

    async def main():
        async with (
            servers() as many,
            client(*addresses(many), kestrel_command_timeout_s=0.5, kestrel_connect_timeout_s=0.2) as kestrel,
        ):
            frozen, *others = many
            polls = [asyncio.ensure_future(kestrel.wait("q", 5).result()) for _ in range(8)]
            await until(lambda: all(server.waiters.get("q") for server in many))
            frozen.manners.frozen = True
            for server in others:
                server.append("q", b"at once")
            await until(lambda: sum(poll.done() for poll in polls) == 2, 4)  # the polls end after 5 s
            outcomes = await asyncio.gather(*(kestrel.put("w", b"x") for _ in range(30)), return_exceptions=True)
            assert {type(each) for each in outcomes} <= {type(None), OutcomeUnknown}
            await until(lambda: states(kestrel)[0] is Health.DOWN)
            asked = [line for line in frozen.log if line.startswith(("set", "get"))]
            for _ in range(30):
                await kestrel.put("w", b"y")
            waiter = kestrel.wait("other", 0)
            assert await waiter.result() is None
            assert str(waiter.coverage) == "2/3"
            assert [line for line in frozen.log if line.startswith(("set", "get"))] == asked
            frozen.thaw()
            await until(lambda: states(kestrel) == [Health.UP] * 3)
            for poll in polls:
                poll.cancel()

    asyncio.run(main())


@undisturbed(0.05)
def test_a_frozen_server_that_nobody_uses_is_down_within_the_command_timeout():
    """Frozen just after it was looked at, the worst moment: with `status`, without it, and with leases on it."""

    async def main():
        async with (
            StandIn() as new,
            StandIn(darner()) as old,
            StandIn() as taken,
            client(new.address, old.address, taken.address, kestrel_command_timeout_s=1.5) as kestrel,
        ):

            async def down_after(index, server, word):
                looks = server.log.count(word)
                await until(lambda: server.log.count(word) > looks)
                server.manners.frozen = True
                began = time.monotonic()
                await until(lambda: states(kestrel)[index] is Health.DOWN)
                return time.monotonic() - began

            for number in range(20):
                taken.append("q", b"%d" % number)
            reads = [await kestrel.wait("q", 1).result() for _ in range(20)]
            took = await asyncio.gather(
                down_after(0, new, "status"), down_after(1, old, "version"), down_after(2, taken, "status")
            )
            assert max(took) < 1.5
            for server in (new, old, taken):
                server.thaw()
            await until(lambda: states(kestrel) == [Health.UP] * 3)
            for read in reads:
                read.give_back()

    asyncio.run(main())


# Writes


def test_full_is_what_every_server_says():
    """One that has room takes the item; QueueFull only when all refuse, and not when one of them is unwell."""

    async def main():
        async with servers() as many, client(*addresses(many)) as kestrel:
            for server in many[:2]:
                server.max_items = 0
            for i in range(20):
                await kestrel.put("q", b"%d" % i)
            assert len(many[2].queues["q"]) == 20
            many[2].max_items = 0
            with pytest.raises(QueueFull):
                await kestrel.put("q", b"x")
            assert [type(each) for each in await kestrel.put_many("q", [(b"x", 0)] * 3)] == [QueueFull] * 3
            many[1].manners.once("set", answer(b"SERVER_ERROR cannot write\r\n", close=True))
            with pytest.raises(BackendRefused):
                await kestrel.put("q", b"x")

    asyncio.run(main())


@pytest.mark.parametrize("many_at_once", [False, True])
def test_an_unknown_outcome_is_tried_elsewhere_only_where_duplicates_are_fine(many_at_once):
    """Sent and unanswered is the caller's to judge, unless he said that he does not mind."""

    async def main():
        async with servers(2) as many, client(*addresses(many)) as kestrel:

            async def put(**how):
                if not many_at_once:
                    await kestrel.put("q", b"x", **how)
                    return
                (outcome,) = await kestrel.put_many("q", [(b"x", 0)], **how)
                if outcome is not None:
                    raise outcome

            for server in many:
                server.manners.once("set", hang_up)
            with pytest.raises(OutcomeUnknown):
                await put()
            assert sum(bool(server.manners.script["set"]) for server in many) == 1, "only one of them was sent it"
            for _ in range(10):
                await put(duplicates_ok=True)
            assert sum(len(server.queues.get("q", ())) for server in many) == 10
            for server in many:
                server.manners.once("set", hang_up)
            with pytest.raises(OutcomeUnknown):
                await put(duplicates_ok=True)

    asyncio.run(main())


def test_a_single_server_is_tried_twice_where_duplicates_are_fine():
    """There is no other one."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            server.manners.once("set", hang_up)
            await kestrel.put("q", b"x", duplicates_ok=True)
            assert list(server.queues["q"]) == [b"x"]

    asyncio.run(main())


def test_many_puts_move_on_one_by_one():
    """Only what one server did not store goes to the next, and each item is stored once."""

    async def main():
        async with servers(2) as many, client(*addresses(many)) as kestrel:
            for server in many:
                server.max_items = 30
            outcomes = await kestrel.put_many("q", [(b"%d" % i, 0) for i in range(50)])
            assert outcomes == [None] * 50
            stored = [data for server in many for data in server.queues["q"]]
            assert sorted(stored) == sorted(b"%d" % i for i in range(50))

    asyncio.run(main())


def test_one_ordering_key_is_one_server_and_keys_are_spread():
    """Every item of a key is on its server, in order; a member that leaves moves only its own keys."""

    async def main():
        async with servers() as many, client(*addresses(many)) as kestrel:
            for i in range(5):
                for key in range(60):
                    await kestrel.put("q", b"%d:%d" % (key, i), ordering_key=str(key))
            home = {}
            for server in many:
                seen: dict[bytes, list[int]] = {}
                for data in server.queues["q"]:
                    key, _, number = data.partition(b":")
                    seen.setdefault(key, []).append(int(number))
                assert all(numbers == list(range(5)) for numbers in seen.values())
                home |= dict.fromkeys(seen, server)
            assert len(home) == 60
            assert min(Counter(home.values()).values()) >= 8
            for server in many:
                server.queues.clear()
            kestrel.set_members([parse_address(server.address) for server in many[1:]])
            for key in range(60):
                await kestrel.put("q", b"%d" % key, ordering_key=str(key))
            for server in many[1:]:
                for data in server.queues["q"]:
                    assert home[data] in (server, many[0])

    asyncio.run(main())


def test_an_ordering_key_of_a_lost_server_is_refused():
    """Its items do not go elsewhere: order is the promise. Others go on."""

    async def main():
        async with servers(2) as (one, two), client(one.address, two.address) as kestrel:
            keys = [str(i) for i in range(40)]
            for key in keys:
                await kestrel.put("q", key.encode(), ordering_key=key)
            of_one = {data.decode() for data in one.queues["q"]}
            await one.stop()
            await until(lambda: states(kestrel)[0] is Health.DOWN)
            for key in keys:
                if key in of_one:
                    with pytest.raises(BackendUnavailable):
                        await kestrel.put("q", b"x", ordering_key=key)
                else:
                    await kestrel.put("q", b"x", ordering_key=key)

    asyncio.run(main())


@pytest.mark.parametrize("choice", ["stay", "move"])
@pytest.mark.parametrize("status", [Health.READONLY, Health.QUIESCENT])
def test_ordering_keys_of_a_drained_server_stay_or_move(choice: str, status: Health):
    """By the operator's choice they are refused, or go to the other server; the other's keys stay in any case."""

    async def main():
        async with servers(2) as (one, two), client(one.address, two.address, ordering_keys=choice) as kestrel:
            for key in range(40):
                await kestrel.put("q", b"%d" % key, ordering_key=str(key))
            of_one = [data.decode() for data in one.queues.pop("q")]
            of_two = [data.decode() for data in two.queues.pop("q")]
            await kestrel.set_status(one.address, status)
            for key in of_two:
                await kestrel.put("q", key.encode(), ordering_key=key)
            for key in of_one:
                if choice == "stay":
                    with pytest.raises(BackendUnavailable):
                        await kestrel.put("q", key.encode(), ordering_key=key)
                else:
                    await kestrel.put("q", key.encode(), ordering_key=key)
            stored = [data.decode() for data in two.queues["q"]]
            assert stored == (of_two if choice == "stay" else of_two + of_one)

    asyncio.run(main())


def test_ordering_keys_never_move_away_from_a_lost_server():
    """Its items come back with it, and their order is the promise."""

    async def main():
        async with servers(2) as (one, two), client(one.address, two.address, ordering_keys="move") as kestrel:
            for key in range(40):
                await kestrel.put("q", b"%d" % key, ordering_key=str(key))
            of_one = [data.decode() for data in one.queues["q"]]
            await one.stop()
            await until(lambda: states(kestrel)[0] is Health.DOWN)
            for key in of_one:
                with pytest.raises(BackendUnavailable):
                    await kestrel.put("q", b"x", ordering_key=key)

    asyncio.run(main())


def test_what_is_behind_a_failed_commit_is_not_called_refused():
    """A server that could not write one item may have stored the next by another commit."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            server.manners.once("set", answer(b"SERVER_ERROR cannot write: full\r\n"))
            server.manners.once("set", hang_up)
            outcomes = await kestrel.put_many("q", [(b"x", 0)] * 4)
            assert [type(each) for each in outcomes] == [BackendRefused, *[OutcomeUnknown] * 3]

    asyncio.run(main())


# Reads


def test_few_polls_on_full_queues_take_no_more_than_they_need():
    """With items on all servers, one poll after the other: fair, and at most one item in a hundred is given back."""

    async def main():
        async with servers() as many, client(*addresses(many)) as kestrel:
            for number, server in enumerate(many):
                for i in range(200):
                    server.append("q", b"%d:%d" % (number, i))
            order = []
            for _ in range(300):
                read = await kestrel.wait("q", 5).result()
                order.append(int(read.data.split(b":")[0]))
                await read.confirm()
            assert max(Counter(order).values()) < 2 * min(Counter(order).values())
            assert kestrel.statistics().given_back_unserved <= 3
            for _ in range(200):
                await (await kestrel.wait("q", 0).result()).confirm()
            assert kestrel.statistics().given_back_unserved <= 5

    asyncio.run(main())


def test_surplus_gets_are_kept_for_a_moment_and_then_closed():
    """An item that comes between two polls serves the second; without a second it goes back, and no get is left."""

    async def main():
        async with servers() as many, client(*addresses(many)) as kestrel:
            task = asyncio.ensure_future(kestrel.wait("q", 20).result())
            await until(lambda: all(server.waiters.get("q") for server in many))
            many[0].append("q", b"first")
            read = await task
            many[1].append("q", b"second")
            await read.confirm()
            again = await kestrel.wait("q", 20).result()
            assert again.data == b"second"
            await again.confirm()
            many[2].append("q", b"third")
            await until(lambda: list(many[2].queues["q"]) == [b"third"])
            await until(lambda: kestrel.statistics().open_waits == 0)
            assert not any(server.waiters.get("q") for server in many)
            assert kestrel.statistics().given_back_unserved <= 1
            assert states(kestrel) == [Health.UP] * 3

    asyncio.run(main())


@undisturbed(0.5)
def test_more_servers_than_gets_take_turns_within_a_second():
    """At most QUEUE_GETS gets are open; every server was asked at most a second ago; an item on any server is found."""

    async def main():
        count = QUEUE_GETS + 16
        async with servers(count) as many, client(*addresses(many)) as kestrel:
            polls = [asyncio.ensure_future(kestrel.wait("q", 30).result()) for _ in range(60)]
            gets = dict.fromkeys(many, 0)
            async with asyncio.timeout(20):
                began_s = time.monotonic()
                while min(gets.values()) < 3:
                    await asyncio.sleep(0.02)
                    assert sum(len(server.waiters.get("q", ())) for server in many) <= QUEUE_GETS
                    gets = {server: sum(line.startswith("get") for line in server.log) for server in many}
                took_s = time.monotonic() - began_s
            assert took_s < 2 * 3, "twice the time of three rounds, for a busy machine"
            assert max(gets.values()) <= 3 * min(gets.values()), "none waits for its turn much longer than another"
            for number, server in enumerate(many):
                server.append("q", b"%d" % number)
            await until(lambda: sum(poll.done() for poll in polls) == count)
            for poll in polls:
                poll.cancel()
            await asyncio.gather(*polls, return_exceptions=True)

    asyncio.run(main())


@pytest.mark.parametrize("timeout_s", [0, 0.1])
@undisturbed(0.1)
def test_an_empty_wait_says_how_many_were_asked(timeout_s):
    """All of three: nothing more is said. Two: 2/3. None: an error."""

    async def main():
        async with (
            servers() as many,
            client(*addresses(many), kestrel_connect_timeout_s=0.2, kestrel_command_timeout_s=0.3) as kestrel,
        ):
            waiter = kestrel.wait("q", timeout_s)
            assert await waiter.result() is None
            assert waiter.coverage is None
            await many[0].stop()
            await until(lambda: states(kestrel)[0] is Health.DOWN)
            waiter = kestrel.wait("q", timeout_s)
            assert await waiter.result() is None
            assert str(waiter.coverage) == "2/3"
            for server in many[1:]:
                await server.stop()
            await until(lambda: states(kestrel) == [Health.DOWN] * 3)
            with pytest.raises(BackendUnavailable):
                await kestrel.wait("q", timeout_s).result()

    asyncio.run(main())


def test_a_straggler_does_not_hold_up_who_asks_once():
    """A server that does not answer, and is not known to be down yet, is left out after a quarter of a second."""

    async def main():
        async with servers() as many, client(*addresses(many), kestrel_command_timeout_s=60) as kestrel:
            many[1].manners.frozen = True
            waiter = kestrel.wait("q", 0)
            async with asyncio.timeout(10):
                assert await waiter.result() is None
            assert str(waiter.coverage) == "2/3"
            assert states(kestrel)[1] is Health.UP
            many[1].thaw()

    asyncio.run(main())


# All at once


def test_what_is_asked_of_all_says_how_many_took_part():
    """Figures, peeks, flushes and deletes over those that answer; an error only when none does."""

    async def main():
        async with servers() as many, client(*addresses(many), kestrel_connect_timeout_s=0.2) as kestrel:
            for number, server in enumerate(many):
                for _ in range(number + 1):
                    server.append("q", b"%d" % number)
            merged = await kestrel.queue_stats()
            assert (merged.queues["q"].items, str(merged.coverage)) == (6, "3/3")
            assert {name: queues["q"].items for name, queues in merged.servers.items()} == {
                server.address: number + 1 for number, server in enumerate(many)
            }
            await many[2].stop()
            await until(lambda: states(kestrel)[2] is Health.DOWN)
            merged = await kestrel.queue_stats()
            assert (merged.queues["q"].items, str(merged.coverage)) == (3, "2/3")
            assert str((await kestrel.peek("q")).coverage) == "2/3"
            assert str(await kestrel.flush("q")) == "2/3"
            assert str(await kestrel.delete("q")) == "2/3"
            many[0].manners.once("flush", hang_up)
            with pytest.raises(OutcomeUnknown):
                await kestrel.flush("q")
            for server in many[:2]:
                await server.stop()
            await until(lambda: states(kestrel) == [Health.DOWN] * 3)
            for call in (kestrel.queue_stats(), kestrel.peek("q"), kestrel.flush("q"), kestrel.delete("q")):
                with pytest.raises(BackendUnavailable):
                    await call

    asyncio.run(main())


def test_nobody_asks_in_vain_for_long():
    """Figures and peeks wait a second for a frozen server, keys a quarter of one; alone it is waited for."""

    async def main():
        async with servers() as many, client(*addresses(many), kestrel_command_timeout_s=60) as kestrel:
            for server in many:
                server.append("q", b"x")
            many[0].append("frozen", b"x")
            assert await kestrel.keys() == {"q", "frozen"}
            many[0].manners.frozen = True
            many[1].append("new", b"x")
            async with asyncio.timeout(10):
                assert await kestrel.keys() == {"q", "frozen", "new"}, "a silent server has what it had"
                merged, peeked = await asyncio.gather(kestrel.queue_stats(), kestrel.peek("q"))
            assert (str(merged.coverage), merged.queues["q"].items, str(peeked.coverage)) == ("2/3", 2, "2/3")
            kestrel.set_members([parse_address(server.address) for server in many[1:]])
            assert await kestrel.keys() == {"q", "new"}, "of one that is no member any more nothing counts"
            many[0].thaw()
            many[1].manners.once("dump_stats", lambda session: session.server.loop.call_later(0.5, late, session))
            kestrel.set_members([parse_address(many[1].address)])
            assert await kestrel.keys() == {"q", "new"}, "the only one is waited for"

    def late(session):
        session.send(session.server.dump([]))

    asyncio.run(main())


def test_a_late_answer_is_remembered_and_a_cancelled_question_leaves_nothing():
    """The next one who asks for keys gets what came too late for the one before; no connection is held for ever."""

    async def main():
        async with servers(2) as (one, two), client(one.address, two.address) as kestrel:
            one.append("slow", b"x")
            two.append("quick", b"x")
            one.manners.frozen = True
            assert await kestrel.keys() == {"quick"}
            one.thaw()
            await until(lambda: not kestrel.backends()[0].connections.get("busy"))
            one.manners.frozen = True
            assert await kestrel.keys() == {"slow", "quick"}
            for question in (kestrel.keys(), kestrel.queue_stats(), kestrel.peek("slow")):
                asked = asyncio.ensure_future(question)
                await asyncio.sleep(0.01)
                asked.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asked
            one.thaw()
            assert await kestrel.keys() == {"slow", "quick"}

    asyncio.run(main())


@undisturbed(0.5)
def test_one_server_that_has_a_queue_is_enough_to_know_that_it_exists():
    """A silent server is not waited for. If no other one has the queue, the coverage says that it was not asked."""

    async def main():
        async with servers(2) as (one, two), client(one.address, two.address) as kestrel:
            assert str(await kestrel.missing("q+a")) == "2/2"
            two.create("q+a")
            assert await kestrel.missing("q+a") is None
            one.manners.frozen = True
            began_s = time.monotonic()
            for _ in range(20):
                assert await kestrel.missing("q+a") is None
            assert time.monotonic() - began_s < 5  # PATIENCE_S each would be 20
            assert str(await kestrel.missing("q+b")) == "1/2"
            one.thaw()

    asyncio.run(main())


# Members


def test_members_come_and_go_without_losing_a_job():
    """One that leaves takes no writes and gets no gets; its lease ends in its time; then its connections close."""

    async def main():
        async with servers() as (one, two, three), client(one.address, two.address) as kestrel:
            one.append("q", b"leased")
            read = await kestrel.wait("q", 1).result()
            poll = asyncio.ensure_future(kestrel.wait("q", 20).result())
            await until(lambda: one.waiters.get("q") and two.waiters.get("q"))
            kestrel.set_members([parse_address(two.address), parse_address(three.address)])
            await until(lambda: three.waiters.get("q"))
            await until(lambda: not one.waiters.get("q"))
            assert [backend.leaving for backend in kestrel.backends()] == [False, False, True]
            await until(lambda: len(one.sessions) == 1)
            three.append("q", b"new")
            assert (await poll).data == b"new"
            before = len(one.log)
            for _ in range(20):
                await kestrel.put("w", b"x")
            assert len(one.log) == before
            await read.confirm()
            assert one.confirmed == [("q", b"leased")]
            await until(lambda: not one.sessions)
            await until(lambda: len(kestrel.backends()) == 2)
            kestrel.set_members([parse_address(one.address)])
            await until(lambda: states(kestrel)[0] is Health.UP)
            await kestrel.put("w", b"x")

    asyncio.run(main())


def test_members_change_all_the_time():
    """Many changes while puts and polls go on: each stored item is delivered, on whichever server it is."""
    changes, jobs = examples(100), examples(200)

    async def main():
        async with servers() as many, client(many[0].address) as kestrel:
            parsed = [parse_address(server.address) for server in many]
            stored, taken = [], []

            async def repeated(work):
                # While all members are new nothing is sent to any; then this is the answer.
                while True:
                    try:
                        return await work()
                    except BackendUnavailable:
                        await until(lambda: kestrel.available)

            async def produce():
                for i in range(jobs):
                    await repeated(lambda i=i: kestrel.put("q", b"%d" % i))
                    stored.append(b"%d" % i)

            async def consume():
                while len(taken) < jobs:
                    read = await repeated(lambda: kestrel.wait("q", 0.2).result())
                    if read is not None:
                        await read.confirm()
                        taken.append(read.data)

            async def change():
                for i in range(changes):
                    kestrel.set_members([parsed[i % 3], parsed[(i + 1 + i % 2) % 3]])
                    await asyncio.sleep(0.003)
                kestrel.set_members(parsed)

            async with asyncio.timeout(20):
                await asyncio.gather(produce(), change(), *(consume() for _ in range(4)))
            assert sorted(taken) == sorted(stored)

    asyncio.run(main())


def test_no_server_at_all_is_unavailable_and_one_that_comes_serves_who_waits():
    """A client whose members are not known yet refuses puts and keeps polls."""

    async def main():
        async with StandIn() as server, client(server.address) as kestrel:
            kestrel.set_members([])
            with pytest.raises(BackendUnavailable):
                await kestrel.put("q", b"x")
            with pytest.raises(BackendUnavailable):
                await kestrel.wait("q", 0).result()
            with pytest.raises(BackendUnavailable):
                await kestrel.wait("q", 0.05).result()
            with pytest.raises(BackendUnavailable):
                await kestrel.queue_stats()
            poll = asyncio.ensure_future(kestrel.wait("q", 5).result())
            await asyncio.sleep(0)
            server.append("q", b"x")
            kestrel.set_members([parse_address(server.address)])
            read = await poll
            assert read.data == b"x"
            read.give_back()

    asyncio.run(main())


def test_one_poll_takes_one_item_and_servers_have_equal_chances(monkeypatch):
    """With items everywhere a poll that comes alone sets no second one aside; over many queues each server serves."""
    for module in ("state", "decision"):  # longer than a busy machine delays an answer
        monkeypatch.setattr(f"gateway.kestrel.polls.{module}.STEP_S", 1.0)

    async def main():
        async with servers() as many, client(*addresses(many)) as kestrel:
            served = Counter()
            for number in range(60):
                key = f"q{number}"
                for server in many:
                    server.append(key, server.address.encode())
                read = await kestrel.wait(key, (number % 2) * 5).result()
                assert sum(server.held(key) for server in many) == 1
                served[read.data] += 1
                await read.confirm()
            assert min(served[address.encode()] for address in addresses(many)) >= 6

    asyncio.run(main())


def test_what_is_told_is_the_least_certain():
    """Full and away: full, since the one that could be asked said so. Full and unknown: unknown, in whatever order."""

    async def main():
        async with servers(2) as (one, two), client(one.address, two.address) as kestrel:
            one.max_items = 0
            for _ in range(8):
                two.manners.once("set", hang_up)
                with pytest.raises(OutcomeUnknown):
                    await kestrel.put("q", b"x", duplicates_ok=True)
                two.manners.once("set", answer(b"SERVER_ERROR cannot write\r\n", close=True))
                with pytest.raises(BackendRefused):
                    await kestrel.put("q", b"x")
            await two.stop()
            await until(lambda: states(kestrel)[1] is Health.DOWN)
            with pytest.raises(QueueFull):
                await kestrel.put("q", b"x")

    asyncio.run(main())


@undisturbed(0.1)
def test_puts_avoid_a_server_that_leaves_an_answer_waiting():
    """It is not known to be down yet, and still only the first few puts are caught in it."""

    async def main():
        async with servers(2) as (one, two), client(one.address, two.address) as kestrel:
            await until(lambda: not any(writer.holds("q") for writer in kestrel._placement._writers))
            one.manners.frozen = True
            first = [asyncio.ensure_future(kestrel.put("q", b"x")) for _ in range(20)]
            await until(lambda: any(writer.stalled for writer in kestrel._placement._writers))
            assert states(kestrel) == [Health.UP, Health.UP]
            async with asyncio.timeout(0.5):
                for _ in range(30):
                    await kestrel.put("q", b"y")
            one.thaw()
            await asyncio.gather(*first)

    asyncio.run(main())
