"""Moves over the embedded broker: where a job goes that its consumer did not finish, and when it must not be copied."""

import asyncio
import signal
import time

import pytest

from gateway.config.policies import Policy, Retry
from gateway.envelope.read import unwrap
from gateway.errors import LeaseLost, OutcomeUnknown, QueueDeleted, QueueHasChildren
from gateway.leases.lease import Place, State
from gateway.queue_stats import QueueStats
from tests.kestrel.standin import StandIn, hang_up, silence
from tests.kestrel.support import until
from tests.lab.broker import BrokerProcess
from tests.lab.waiting import undisturbed
from tests.leases.rig import rig

FOREIGN = b'{"specversion":"1.0","id":"f","source":"s","type":"t","data":1}'


def address(broker):
    return f"127.0.0.1:{broker.port}"


def over(broker, work, **options):
    """Runs `work(rig)` over the broker; with limits of time it begins without items, because it may be repeated."""
    if options:
        broker.ask("flush_all")

    async def go():
        async with rig(address(broker), **options) as made:
            await work(made)

    asyncio.run(go())


async def left(made, name):
    """What waits on the queue, in order, as raw bytes; takes it off."""
    found = []
    while (read := await made.kestrel.wait(name, 0).result()) is not None:
        found.append(read.data)
        await read.confirm()
    return found


def test_a_nack_goes_to_the_tail_as_the_next_attempt(broker):
    """Behind the others, with attempt and reason in the envelope; nothing is set aside any more."""

    async def work(made):
        first, second = await made.put("tail", b'{"a":1.10}'), await made.put("tail")
        taken = await made.take("tail")
        lease = await made.registry.nack(taken.lease.id, reason="no")
        assert (lease.state, lease.place, lease.target) == (State.NACKED, Place.TAIL, Place.TAIL)
        assert await made.open_reads("tail") == 0
        other, again = await left(made, "tail")
        assert other == second
        job = unwrap(again)
        assert (job.id, job.attempt, job.event["lasterror"], job.payload) == (
            unwrap(first).id,
            2,
            "no",
            b'{"a":1.10}',
        )
        assert (made.moves.statistics().moved, made.moves.statistics().kept) == (1, {})
        assert made.registry.leases.statistics().ended["nacked"] == 1

    over(broker, work)


async def full(made, client):
    await made.put("small", b"1")
    taken = await made.take("small")
    await made.put("small", b"2")
    return "small", taken


async def ring(made, client):
    for number in range(3):
        await made.put("ring", b"%d" % number)
    return "ring", await made.take("ring")


async def children(made, client):
    client.get("parent+child/peek")
    await made.put("parent")
    return "parent", await made.take("parent")


async def raw_item(made, client):
    client.put("bytes", b"\x00\xff")
    return "bytes", await made.take("bytes")


async def unknown_ttl(made, client):
    client.put("foreign", FOREIGN, 3600)
    return "foreign", await made.take("foreign")


async def too_large(made, client):
    item = await made.put("tight", b'"%b"' % (b"x" * 60))
    assert 250 < len(item) <= 300
    return "tight", await made.take("tight")


UNSAFE = {
    "not-stored": [full, too_large],
    "ring": [ring],
    "children": [children],
    "raw": [raw_item],
    "unknown-ttl": [unknown_ttl],
}


def test_a_delay_is_promised_only_while_the_server_holds_the_job():
    """No copy is safe, and the connection has ended: the job is back at once, and its nack is not answered with a due
    time."""

    async def main():
        async with StandIn() as server, rig(server.address) as made:
            await made.kestrel.put("raw", b"\xff")
            taken = await made.take("raw")
            server.manners.once("version", hang_up)
            with pytest.raises(LeaseLost):
                await made.registry.nack(taken.lease.id, delay_s=1000)
            again = await made.take("raw")
            assert (again.job, again.lease.attempt) == (taken.job, 2)
            await made.registry.ack(again.lease.id)

    asyncio.run(main())


@pytest.mark.parametrize(("why", "arrange"), [(why, each) for why, all_of in UNSAFE.items() for each in all_of])
def test_where_a_copy_is_not_safe_the_job_stays_at_the_head(broker, why, arrange):
    """The very item is the next one again, as its second attempt; no job is pushed out, no child sees it twice."""

    async def work(made):
        client = broker.client()
        name, taken = await arrange(made, client)
        before = (await made.kestrel.queue_stats(name)).queues.get(name)
        lease = await made.registry.nack(taken.lease.id, reason="x" * 200)
        assert (lease.place, lease.target) == (Place.HEAD, Place.TAIL)
        assert made.moves.statistics().kept == {why: 1}
        again = await made.take(name)
        assert (again.job, again.lease.attempt) == (taken.job, 2)
        await made.registry.ack(again.lease.id)
        after = (await made.kestrel.queue_stats(name)).queues.get(name)
        assert (after.total_items, after.discarded) == (before.total_items, before.discarded)
        await left(made, name)

    over(broker, work)


def test_children_on_a_server_without_their_parent_get_no_copy(tmp_path):
    """They may exist before the queue or remain after it, and a copy that is put there creates it again."""
    with BrokerProcess(tmp_path / "a") as first, BrokerProcess(tmp_path / "b") as second:

        async def go():
            async with rig(address(first), address(second)) as made:
                await made.put("parent")
                taken = await made.take("parent")
                merged = await made.kestrel.queue_stats("parent")
                elsewhere = next(
                    each
                    for each in (first, second)
                    if merged.servers[address(each)].get("parent", QueueStats()).open_reads == 0
                )
                client = elsewhere.client()
                client.ask(b"delete parent\r\n")
                client.get("parent+child/peek")
                assert (await made.registry.nack(taken.lease.id)).place is Place.HEAD
                assert made.moves.statistics().kept == {"children": 1}
                again = await made.take("parent")
                await made.registry.reject(again.lease.id)
                client.ask(b"delete parent\r\n")
                with pytest.raises(QueueHasChildren):
                    await made.redrive(made.queue("parent"), 10)
                assert await left(made, "parent+child") == []
                assert len(await left(made, "parent__dead")) == 1

        asyncio.run(go())


@undisturbed(0.05)
def test_a_job_whose_time_is_over_is_not_copied(broker):
    """Nacked after its expiry it goes to the head, where the next poll drops it."""

    async def work(made):
        await made.put("mortal", ttl_s=0.2)
        taken = await made.take("mortal")
        await asyncio.sleep(max(0, taken.job.expires_s - time.time()) + 0.01)
        assert (await made.registry.nack(taken.lease.id)).place is Place.HEAD
        assert made.moves.statistics().kept == {"expired": 1}
        assert await made.take("mortal", timeout_s=0) is None

    over(broker, work)


@undisturbed(0.3)
def test_a_copy_expires_when_its_job_does(broker):
    """The copy has the envelope's expiry, also on the wire: Kestrel drops it by itself."""

    async def work(made):
        await made.put("brief", ttl_s=1)
        taken = await made.take("brief")
        assert (await made.registry.nack(taken.lease.id)).place is Place.TAIL
        stats = (await made.kestrel.queue_stats("brief")).queues.get("brief")
        assert stats.items == 1
        await asyncio.sleep(max(0, taken.job.expires_s - time.time()) + 1.1)
        assert await made.kestrel.wait("brief", 0).result() is None
        assert (await made.kestrel.queue_stats("brief")).queues["brief"].expired_items == 1

    over(broker, work)


def test_a_server_that_takes_nothing_keeps_the_job(own_broker):
    """Read-only: no copy can be stored, and the job goes to the head."""

    async def work(made):
        await made.put("q")
        taken = await made.take("q")
        assert own_broker.client().ask(b"status readonly\r\n") == b"END\r\n"
        assert (await made.registry.nack(taken.lease.id)).place is Place.HEAD
        assert made.moves.statistics().kept == {"not-stored": 1}
        again = await made.take("q")
        assert again.lease.attempt == 2
        assert own_broker.client().ask(b"status up\r\n") == b"END\r\n"
        await made.registry.ack(again.lease.id)

    over(own_broker, work)


@undisturbed(0.05)
def test_a_copy_that_was_not_answered_leaves_the_job_at_the_head():
    """The copy's outcome is unknown, the job goes back; it is never lost, at worst there twice."""

    async def go():
        async with StandIn() as server, rig(server.address, kestrel_command_timeout_s=0.15) as made:
            await made.put("q")
            taken = await made.take("q")
            server.manners.once("set", silence)
            assert (await made.registry.nack(taken.lease.id)).place is Place.HEAD
            assert made.moves.statistics().kept == {"not-answered": 1}
            await until(lambda: made.kestrel.available)
            assert [unwrap(item).id for item in await left(made, "q")] == [taken.job.id]

    asyncio.run(go())


@undisturbed(0.05)
def test_a_server_that_stands_still_gets_no_copy(own_broker):
    """Frozen, it does not say what it holds of the queue: the job goes back, and is there once."""

    async def work(made):
        for _ in range(2):
            await made.put("q")
        first, second = await made.take("q"), await made.take("q")
        await made.registry.nack(first.lease.id)  # from now on the queue's figures are known, for a moment
        own_broker.process.send_signal(signal.SIGSTOP)
        try:
            assert (await made.registry.nack(second.lease.id)).place is Place.HEAD
        finally:
            own_broker.process.send_signal(signal.SIGCONT)
        assert made.moves.statistics().kept == {"not-stored": 1}
        await until(lambda: made.kestrel.available)
        assert {unwrap(item).id for item in await left(made, "q")} == {first.job.id, second.job.id}
        assert made.moves.statistics().moved == 1

    over(own_broker, work, kestrel_command_timeout_s=0.15)


def test_a_server_that_is_gone_takes_the_lease_along(own_broker):
    """It is killed: the lease is lost, and a nack raises LeaseLost."""

    async def work(made):
        await made.put("q")
        taken = await made.take("q")
        own_broker.kill()
        await until(lambda: taken.lease.state is State.LOST)
        with pytest.raises(LeaseLost):
            await made.registry.nack(taken.lease.id)
        assert made.registry.leases.statistics().ended["backend_lost"] == 1

    over(own_broker, work)


def test_a_deleted_queue_gets_no_copy(broker):
    """Deleted while a job that cannot be copied waits for its delay: the nack's repetition says so, and the queue stays
    deleted."""

    async def work(made):
        await made.kestrel.put("doomed", b"raw")
        taken = await made.take("doomed")
        await made.registry.nack(taken.lease.id, delay_s=0.1)
        await made.kestrel.delete("doomed")
        assert await made.registry.drop_queue("doomed") == 1
        with pytest.raises(QueueDeleted):
            await made.registry.nack(taken.lease.id)
        await asyncio.sleep(0.2)
        assert not (await made.kestrel.queue_stats("doomed")).queues
        assert made.registry.leases.statistics().ended["deleted"] == 1

    over(broker, work)


def test_an_expired_lease_is_an_attempt_and_a_move(broker):
    """The job is at the tail, and says what happened; the old lease is known to have expired."""

    async def work(made):
        await made.put("slow")
        last = await made.put("slow")
        taken = await made.take("slow", lease_s=0.05)
        await until(lambda: taken.lease.state is State.EXPIRED)
        first, second = await left(made, "slow")
        assert first == last
        assert (unwrap(second).attempt, unwrap(second).event["lasterror"]) == (2, "the lease expired")
        assert made.registry.leases.statistics().ended["expired"] == 1

    over(broker, work)


@pytest.mark.parametrize(("retry", "place"), [(Retry.HEAD, Place.HEAD), (Retry.TAIL, Place.TAIL)])
def test_the_policy_says_where_a_job_comes_back(broker, retry, place):
    """For nacks that say nothing and for expired leases; a nack that says where is followed."""

    async def work(made):
        await made.put("p")
        taken = await made.take("p")
        assert (await made.registry.nack(taken.lease.id)).place is place
        taken = await made.take("p", lease_s=0.05)
        await until(lambda: taken.lease.state is State.EXPIRED)
        assert taken.lease.place is place
        for asked in (Place.HEAD, Place.TAIL):
            taken = await made.take("p")
            assert (await made.registry.nack(taken.lease.id, asked=asked)).place is asked
        taken = await made.take("p")
        assert taken.lease.attempt == 5
        await made.registry.ack(taken.lease.id)

    over(broker, work, policies={"p": Policy(retry=retry)})


def test_attempts_at_the_head_are_counted_in_memory_until_a_copy_says_them(broker):
    """Head, head, tail: the copy is attempt 4, and the count starts again from there."""

    async def work(made):
        await made.put("counted")
        for asked in (Place.HEAD, Place.HEAD, Place.TAIL):
            taken = await made.take("counted")
            await made.registry.nack(taken.lease.id, asked=asked)
        taken = await made.take("counted")
        assert (taken.job.attempt, taken.lease.attempt) == (4, 4)
        await made.registry.nack(taken.lease.id, asked=Place.HEAD)
        taken = await made.take("counted")
        assert (taken.job.attempt, taken.lease.attempt) == (4, 5)
        await made.registry.ack(taken.lease.id)

    over(broker, work)


@undisturbed(0.05)
def test_a_confirm_that_is_not_answered_is_a_move_all_the_same(own_broker):
    """The copy is stored, then Kestrel freezes: the nack is done; the job may be there twice, which is counted."""

    async def work(made):
        await made.put("q")
        taken = await made.take("q")
        taken.lease.read = FreezingRead(taken.lease.read, own_broker)
        try:
            assert (await made.registry.nack(taken.lease.id)).place is Place.TAIL
        finally:
            own_broker.process.send_signal(signal.SIGCONT)
        assert made.moves.statistics().doubled == 1
        await until(lambda: made.kestrel.available)
        found = [unwrap(item) for item in await left(made, "q")]
        assert {job.id for job in found} == {taken.job.id}
        assert found[-1].attempt == 2

    over(own_broker, work, kestrel_command_timeout_s=0.15)


@pytest.mark.parametrize("question", ["may_have_dropped", "queue_stats"])
def test_what_is_lost_before_its_copy_gets_none(broker, question):
    """The connection ends during the question for the queue's figures: the job is once at the head, the lease lost."""

    async def work(made):
        await made.put("early-end")
        taken = await made.take("early-end")
        connection, ask = taken.lease.read._connection, getattr(made.kestrel, question)

        async def asked(*about):
            connection.close()
            return await ask(*about)

        setattr(made.kestrel, question, asked)
        with pytest.raises(LeaseLost):
            await made.registry.nack(taken.lease.id)
        assert (made.moves.statistics().doubled, made.registry.leases.statistics().ended["backend_lost"]) == (0, 1)
        await until_there(made, "early-end", 1)
        assert [unwrap(item).attempt for item in await left(made, "early-end")] == [1]

    over(broker, work)


async def until_there(made, name, count):
    """Returns when so many jobs wait on the queue."""
    async with asyncio.timeout(20):
        while (await made.kestrel.queue_stats(name)).queues[name].items != count:
            pass


class FreezingRead:
    """An open read whose server freezes when it is asked to confirm."""

    def __init__(self, read, broker) -> None:
        self.read = read
        self.broker = broker
        self.data = read.data

    async def confirm(self):
        self.broker.process.send_signal(signal.SIGSTOP)
        await self.read.confirm()

    def __getattr__(self, name):
        return getattr(self.read, name)


@undisturbed(0.05)
def test_a_rejection_that_is_not_confirmed_is_not_told_as_done(own_broker):
    """The dead letter is stored, the original perhaps not gone: the outcome is unknown, and nothing is lost."""

    async def work(made):
        await made.put("q")
        taken = await made.take("q")
        taken.lease.read = FreezingRead(taken.lease.read, own_broker)
        try:
            with pytest.raises(OutcomeUnknown):
                await made.registry.reject(taken.lease.id)
        finally:
            own_broker.process.send_signal(signal.SIGCONT)
        assert made.registry.leases.statistics().ended["unknown"] == 1
        await until(lambda: made.kestrel.available)
        assert unwrap((await left(made, "q__dead"))[0]).id == taken.job.id

    over(own_broker, work, kestrel_command_timeout_s=0.15)


def test_a_poll_that_waits_already_sees_the_right_attempt(broker):
    """The job may come before the nack's own answer: at the head and at the tail its attempt counts all the same."""

    async def work(made):
        await made.put("parked")
        taken = await made.take("parked")
        for attempt, asked in enumerate((Place.HEAD, Place.HEAD, Place.TAIL, Place.TAIL, Place.HEAD, Place.TAIL), 2):
            poll = asyncio.ensure_future(made.take("parked"))
            await until(lambda: made.receiver.waiting == 1)
            (lease, taken) = await asyncio.gather(made.registry.nack(taken.lease.id, asked=asked), poll)
            assert (lease.place, taken.lease.attempt) == (asked, attempt)
        await made.registry.ack(taken.lease.id)

    over(broker, work)


def test_a_copy_goes_to_a_server_that_takes_it(broker, own_broker):
    """With two servers and the job's own read-only, the copy is on the other one, and there is no second."""

    async def go():
        async with rig(address(broker), address(own_broker)) as made:
            own_broker.client().put("spread", await made.put("elsewhere"))
            taken = await made.take("spread")
            assert own_broker.client().ask(b"status readonly\r\n") == b"END\r\n"
            assert (await made.registry.nack(taken.lease.id)).place is Place.TAIL
            again = await made.take("spread")
            assert (again.job.id, again.job.attempt) == (taken.job.id, 2)
            await made.registry.ack(again.lease.id)
            assert await left(made, "spread") == []
            assert broker.client().stats()["queue_spread_total_items"] == "1"

    asyncio.run(go())


@undisturbed(0.1)
def test_a_delay_outlasts_kestrel_s_limit_for_quiet_connections(tmp_path):
    """The connection that keeps a raw item out of sight is pinged: the item leaves when it is due, not before."""

    async def work(made):
        await made.kestrel.put("quiet", b"raw")
        taken = await made.take("quiet")
        began_s = time.monotonic()
        await made.registry.nack(taken.lease.id, delay_s=1.5)
        again = await made.take("quiet")
        assert time.monotonic() - began_s > 1.4
        await until(lambda: taken.lease.state is State.NACKED)
        assert (again.lease.attempt, taken.lease.place) == (2, Place.HEAD)
        await made.registry.ack(again.lease.id)

    with BrokerProcess(tmp_path / "data", "--fsync", "off", config="client_timeout = 0.6") as quick:
        over(quick, work, kestrel_idle_timeout_s=0.6)
