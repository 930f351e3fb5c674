"""Dead letters over the embedded broker: which jobs become one, what it says, and the way back."""

import asyncio

import pytest

from gateway.config.policies import Policy, Retry
from gateway.envelope.read import unwrap
from gateway.envelope.rewrite import restored
from gateway.errors import QueueFull, QueueHasChildren
from gateway.leases.lease import Place, State
from tests.kestrel.support import until
from tests.lab.waiting import undisturbed
from tests.leases.test_moves import left, over

THREE = Policy(max_attempts=3)


def test_a_rejected_job_is_a_dead_letter(broker):
    """With the reason, time, attempts and queue; a repeated reject gets the same answer."""

    async def work(made):
        item = await made.put("r")
        taken = await made.take("r")
        for _ in range(2):
            lease = await made.registry.reject(taken.lease.id, reason="no such user")
            assert (lease.state, lease.place) == (State.REJECTED, Place.DEAD)
        (letter,) = await left(made, "r__dead")
        event = unwrap(letter).event
        assert (event["deadreason"], event["deadqueue"], event["deadattempts"], event["lasterror"]) == (
            "rejected",
            "r",
            1,
            "no such user",
        )
        assert unwrap(restored(letter).data).id == unwrap(item).id
        assert await left(made, "r") == []
        assert made.registry.leases.statistics().ended["rejected"] == 1
        assert made.moves.statistics().dead_letters == 1

    over(broker, work)


@pytest.mark.parametrize("asked", [Place.HEAD, Place.TAIL])
def test_after_its_last_attempt_a_job_is_a_dead_letter(broker, asked):
    """Whether its copies counted or memory did; the job behind it is not kept waiting."""

    async def work(made):
        await made.put("m")
        await made.put("m", b'"next"')
        places = []
        for _ in range(6):
            taken = await made.take("m")
            if taken.job.payload == b'"job"':
                places.append((await made.registry.nack(taken.lease.id, asked=asked, reason="boom")).place)
            else:
                await made.registry.nack(taken.lease.id, asked=asked)
        assert places == [asked, asked, Place.DEAD]
        letters = await left(made, "m__dead")
        event = unwrap(letters[0]).event
        assert (event["deadreason"], event["deadattempts"], event["lasterror"]) == ("max-attempts", 3, "boom")
        assert len(letters) == 2
        assert await left(made, "m") == []

    over(broker, work, policies={"m": THREE})


def test_a_job_that_kills_its_consumers_does_not_block_the_queue(broker):
    """Expired leases are attempts, at the head, too; a raw item goes the same way and comes back to the byte."""

    async def work(made):
        broker.client().put("k", b"\x00deadly")
        await made.put("k", b'"next"')
        for _ in range(3):
            taken = await made.take("k", lease_s=0.03)
            assert taken.job.id is None
            await until(lambda lease=taken.lease: lease.state is State.EXPIRED)
        taken = await made.take("k")
        assert taken.job.payload == b'"next"'
        await made.registry.ack(taken.lease.id)
        (letter,) = await left(made, "k__dead")
        assert (unwrap(letter).event["deadattempts"], restored(letter).data) == (3, b"\x00deadly")

    over(broker, work, policies={"k": Policy(max_attempts=3, retry=Retry.HEAD)})


def test_jobs_whose_attempts_nobody_settled_are_dead_letters_on_the_way(broker):
    """Given back by vanished clients time and again, the job is passed by at its next delivery."""

    async def work(made):
        await made.put("v")
        await made.put("v", b'"next"')
        for attempt in (1, 2, 3):
            taken = await made.take("v")
            assert (taken.job.payload, taken.lease.attempt) == (b'"job"', attempt)
            made.registry.give_back(taken.lease)
            while await made.open_reads("v"):
                await asyncio.sleep(0.001)
        taken = await made.take("v")
        assert taken.job.payload == b'"next"'
        await made.registry.ack(taken.lease.id)
        (letter,) = await left(made, "v__dead")
        assert unwrap(letter).event["deadattempts"] == 3
        assert made.registry.leases.statistics().ended["client_gone"] == 3

    over(broker, work, policies={"v": THREE})


def test_full_dead_letters_lose_no_job(broker):
    """It goes where it would have gone else: to the tail; and a poll is given it rather than nothing."""

    async def work(made):
        await made.put("full-dead")
        taken = await made.take("full-dead")
        lease = await made.registry.reject(taken.lease.id)
        assert (lease.state, lease.place, lease.target) == (State.REJECTED, Place.TAIL, Place.DEAD)
        for _ in range(3):
            taken = await made.take("full-dead")
            assert (await made.registry.nack(taken.lease.id, asked=Place.HEAD)).place is Place.HEAD
        taken = await made.take("full-dead")
        assert taken.lease.attempt == 5
        await made.registry.ack(taken.lease.id)

    over(broker, work, policies={"full-dead": THREE})


@undisturbed(0.05)
def test_dead_letters_come_back_as_first_attempts(broker):
    """In their order, as many as are asked for, those whose time is over dropped; the last error stays with them."""

    async def work(made):
        for key in ("d", "d__dead"):  # of an attempt before
            await made.kestrel.flush(key)
        for number in range(5):
            await made.put("d", b"%d" % number, ttl_s=0.3 if number == 1 else None)
        for _ in range(5):
            taken = await made.take("d")
            await made.registry.reject(taken.lease.id, reason="broken")
        await asyncio.sleep(0.3)
        queue = made.queue("d")
        done = await made.redrive(queue, 3)
        assert (done.redriven, done.expired, done.left) == (2, 1, 2)
        done = await made.redrive(queue, 100)
        assert (done.redriven, done.expired, done.left) == (2, 0, 0)
        done = await made.redrive(queue, 100)
        assert (done.redriven, done.expired, done.left) == (0, 0, 0)
        jobs = [unwrap(item) for item in await left(made, "d")]
        assert [(job.payload, job.attempt) for job in jobs] == [(b"0", 1), (b"2", 1), (b"3", 1), (b"4", 1)]
        assert {job.event["lasterror"] for job in jobs} == {"broken"}
        assert not any(name.startswith("dead") for job in jobs for name in job.event)

    over(broker, work)


def test_queues_that_share_their_dead_letters_get_their_own_back(broker):
    """Those of the other queue, and jobs that are none, stay in their places."""

    async def work(made):
        for name in ("a", "b"):
            for number in range(2):
                await made.put(name, b'"%b%d"' % (name.encode(), number))
        for name in ("b", "a", "a", "b"):
            await made.registry.reject((await made.take(name)).lease.id)
        await made.put("failed", b'"own"')
        done = await made.redrive(made.queue("a"), 100)
        assert (done.redriven, done.left) == (2, 0)
        assert [unwrap(item).payload for item in await left(made, "a")] == [b'"a0"', b'"a1"']
        kept = await left(made, "failed")
        assert [unwrap(item).payload for item in kept] == [b'"b0"', b'"b1"', b'"own"']
        assert [unwrap(item).event.get("deadqueue") for item in kept] == ["b", "b", None]

    policy = Policy(dead_letter="failed")
    over(broker, work, policies={"a": policy, "b": policy})


def test_a_queue_is_never_its_own_dead_letters(broker):
    """A policy that names the queue itself is read as none; letters from before a policy are found, too."""

    async def work(made):
        await made.put("self")
        await made.registry.reject((await made.take("self")).lease.id)
        assert (await made.kestrel.queue_stats("self__dead")).queues["self__dead"].items == 1
        await made.put("moved")
        await made.kestrel.put("moved__dead", b"from before")
        assert (await made.redrive(made.queue("moved"), 10)).redriven == 1
        assert len(await left(made, "moved")) == 2

    over(broker, work, policies={"self": Policy(dead_letter="self"), "moved": Policy(dead_letter="elsewhere")})


def test_a_child_s_dead_letters_are_no_child(broker):
    """A child's key has a `+`; its dead letters' key has none, so that they do not get every job."""

    async def work(made):
        child = made.queue("news")
        child = type(child)("", "news", "news+audit")
        assert made.moves.dead_letters.key(child) == "news__audit__subdead"

    over(broker, work)


def test_dead_letters_of_a_queue_with_children_stay(broker):
    """Every child would get the jobs again, so nothing is done."""

    async def work(made):
        await made.put("fan")
        await made.registry.reject((await made.take("fan")).lease.id)
        broker.client().get("fan+child/peek")
        with pytest.raises(QueueHasChildren):
            await made.redrive(made.queue("fan"), 10)
        assert (await made.kestrel.queue_stats("fan__dead")).queues["fan__dead"].items == 1

    over(broker, work)


def test_children_of_a_deleted_queue_get_no_dead_letter_again(broker):
    """They outlive their queue, and a put creates it again: the dead letters stay until the children are gone."""

    async def work(made):
        client = broker.client()
        client.get("gone+child/peek")
        await made.put("gone")
        assert [unwrap(item).payload for item in await left(made, "gone+child")] == [b'"job"']
        await made.registry.reject((await made.take("gone")).lease.id)
        await made.kestrel.delete("gone")
        assert not (await made.kestrel.queue_stats("gone")).queues
        with pytest.raises(QueueHasChildren):
            await made.redrive(made.queue("gone"), 10)
        assert await left(made, "gone+child") == []
        await made.kestrel.delete("gone+child")
        assert (await made.redrive(made.queue("gone"), 10)).redriven == 1
        assert len(await left(made, "gone")) == 1

    over(broker, work)


def test_a_queue_that_is_full_takes_what_it_can(broker):
    """What has no room stays a dead letter; when nothing had room, that is the answer."""

    async def work(made):
        for number in range(2):
            await made.put("small", b"%d" % number)
            await made.registry.reject((await made.take("small")).lease.id)
        done = await made.redrive(made.queue("small"), 10)
        assert (done.redriven, done.left) == (1, 1)
        with pytest.raises(QueueFull):
            await made.redrive(made.queue("small"), 10)
        assert [unwrap(item).payload for item in await left(made, "small__dead")] == [b"1"]
        await left(made, "small")

    over(broker, work)


def test_two_redrives_at_once_bring_each_letter_back_once(broker):
    """They share the letters between them."""

    async def work(made):
        for number in range(20):
            await made.put("two", b"%d" % number)
            await made.registry.reject((await made.take("two")).lease.id)
        queue = made.queue("two")
        both = await asyncio.gather(made.redrive(queue, 100), made.redrive(queue, 100))
        assert sum(each.redriven for each in both) == 20
        assert sorted(int(unwrap(item).payload) for item in await left(made, "two")) == list(range(20))

    over(broker, work)
