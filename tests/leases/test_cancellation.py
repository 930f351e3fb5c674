"""Cancelled at every turn of the loop: nothing leaks, no job is lost or doubled, every connection is fit for use."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

import pytest

from gateway.config.policies import Policy
from gateway.delivery import expired_jobs
from gateway.envelope.read import unwrap
from gateway.leases.lease import Place
from tests.kestrel.standin import StandIn
from tests.kestrel.support import until
from tests.lab.examples import examples
from tests.leases.rig import rig
from tests.leases.test_moves import address, left

STEPS = 200
TURNS = range(1, STEPS, STEPS // examples(STEPS))
"""At which a test cancels: at each turn in CI, at every third elsewhere."""
IDLE_TURNS = 3


async def cancel_after(steps: int, work: Coroutine[Any, Any, Any]) -> bool:
    """Runs `work`, which ends by itself, and cancels it after that many turns of the loop. Whether it was cancelled.

    Of the turns in which only the socket is waited for, no more than IDLE_TURNS in a row count: how many there are
    depends on how busy the machine is.
    """
    task = asyncio.ensure_future(work)
    ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined] # what runs in this turn and the next
    idle = 0
    while steps > 0:
        await asyncio.sleep(0)
        if task.done():
            break
        idle = 0 if ready else idle + 1
        if idle <= IDLE_TURNS:
            steps -= 1
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


async def ack(made, name):
    lease = (await made.take(name)).lease
    return made.registry.ack(lease.id), {name: 0}


async def nack_to_the_head(made, name):
    lease = (await made.take(name)).lease
    return made.registry.nack(lease.id, asked=Place.HEAD), {name: 1}


async def nack_to_the_tail(made, name):
    lease = (await made.take(name)).lease
    return made.registry.nack(lease.id), {name: 1}


async def reject(made, name):
    lease = (await made.take(name)).lease
    return made.registry.reject(lease.id), {name: 0, f"{name}__dead": 1}


@pytest.mark.parametrize("arrange", [ack, nack_to_the_head, nack_to_the_tail, reject])
def test_a_cancelled_settlement_ends_as_it_was_begun(broker, arrange):
    """Cancelled at the n-th turn, for every n: the settlement is either not begun, or done to its end."""

    async def go():
        async with rig(address(broker)) as made:
            for steps in TURNS:
                name = f"{arrange.__name__}{steps}"
                await made.put(name)
                work, wanted = await arrange(made, name)
                cancelled = await cancel_after(steps, work)
                await until(lambda: len(made.registry.leases) == 0)
                assert {key: len(await left(made, key)) for key in wanted} == wanted, steps
                if not cancelled:
                    break
            assert 1 < steps < STEPS - 1
            assert made.moves.statistics().doubled == 0

    asyncio.run(go())


def test_a_cancelled_poll_holds_no_job(broker):
    """Cancelled at the n-th turn, with a job there or coming: the job is there for the next poll, once."""

    async def go():
        async with rig(address(broker)) as made:
            for early in (True, False):
                for steps in TURNS:
                    name = f"poll{early}{steps}"
                    if early:
                        await made.put(name)
                    poll = asyncio.ensure_future(cancel_after(steps, made.take(name, timeout_s=5)))
                    if not early:
                        await made.put(name)
                    cancelled = await poll
                    if not cancelled:
                        break
                    taken = await made.take(name)
                    assert taken.lease.attempt == 1
                    await made.registry.ack(taken.lease.id)
                    assert await made.take(name, timeout_s=0) is None
                assert 1 < steps < STEPS - 1
            made.registry.close()

    asyncio.run(go())


def test_a_cancelled_poll_that_drops_jobs_loses_no_other(broker, monkeypatch):
    """Cancelled on its way past jobs whose time is over, also while it waits for one of them: the next poll gets on."""
    monkeypatch.setattr(expired_jobs, "AT_ONCE", 2)
    over = b'{"specversion":"1.0","id":"%d","source":"s","type":"t","expires":"2020-01-01T00:00:00Z","data":1}'

    async def go():
        async with rig(address(broker)) as made:
            for steps in TURNS:
                name = f"over{steps}"
                for number in range(5):
                    await made.kestrel.put(name, over % number)
                await made.put(name)
                cancelled = await cancel_after(steps, made.take(name))
                if not cancelled:
                    break
                taken = await made.take(name)
                assert taken.lease.attempt == 1
                await made.registry.ack(taken.lease.id)
                async with asyncio.timeout(20):
                    while await made.open_reads(name):
                        await asyncio.sleep(0.001)
                assert await made.take(name, timeout_s=0) is None
            assert 1 < steps < STEPS - 1
            made.registry.close()

    asyncio.run(go())


def test_a_cancelled_poll_buries_a_job_or_leaves_it(broker):
    """Cancelled while a job that was delivered too often goes to the dead letters: it is there or here, never twice."""

    async def go():
        async with rig(address(broker), policies={f"dead{n}": Policy(max_attempts=1) for n in range(STEPS)}) as made:
            for steps in TURNS:
                name = f"dead{steps}"
                await made.put(name)
                lease = (await made.take(name)).lease
                made.registry.give_back(lease)
                while await made.open_reads(name):
                    await asyncio.sleep(0.001)
                cancelled = await cancel_after(steps, made.take(name, timeout_s=0))
                while await made.open_reads(name):
                    await asyncio.sleep(0.001)
                found = [len(await left(made, key)) for key in (name, f"{name}__dead")]
                assert sum(found) == 1, (steps, found)
                if not cancelled:
                    break
            assert found == [0, 1]
            assert 1 < steps < STEPS - 1

    asyncio.run(go())


def test_a_cancelled_redrive_leaves_each_letter_in_one_place(broker):
    """Cancelled at the n-th turn: what was begun is finished, the others are where they were, in order."""

    async def go():
        turns = [*(turn for turn in TURNS if turn < 60 or turn % 7 == 0), 2000]
        policies = {f"{name}{n}": Policy(dead_letter=f"dead{n}") for n in turns for name in ("mine", "other")}
        async with rig(address(broker), policies=policies) as made:
            for steps in turns:
                names = [f"mine{steps}", f"other{steps}", f"mine{steps}"]
                for number, name in enumerate(names):
                    await made.put(name, b"%d" % number)
                    await made.registry.reject((await made.take(name)).lease.id)
                cancelled = await cancel_after(steps, made.redrive(made.queue(names[0]), 10))
                while await made.open_reads(f"dead{steps}"):
                    await asyncio.sleep(0.001)
                back = [int(unwrap(item).payload) for item in await left(made, names[0])]
                stayed = [int(unwrap(item).payload) for item in await left(made, f"dead{steps}")]
                assert sorted(back + stayed) == [0, 1, 2], steps
                assert (back, stayed) == (sorted(back), sorted(stayed)), steps
                if not cancelled:
                    break
            assert (back, stayed) == ([0, 2], [1])

    asyncio.run(go())


def test_a_redrive_that_is_cancelled_while_it_asks_keeps_the_order():
    """The dead letter that is on its way then returns before the ones set aside: each goes to the head."""

    async def go():
        policies = {name: Policy(dead_letter="letters") for name in ("mine", "other")}
        async with StandIn() as server, rig(server.address, policies=policies) as made:
            for number, name in enumerate(["other", "mine"]):
                await made.put(name, b"%d" % number)
                await made.registry.reject((await made.take(name)).lease.id)
            server.log.clear()
            server.delay_s = 0.05
            work = asyncio.ensure_future(made.redrive(made.queue("mine"), 10))
            await until(lambda: sum(line.startswith("get letters/open") for line in server.log) == 2)
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
            server.delay_s = 0
            await until(lambda: not server.held("letters"))
            found = [int(unwrap(item).payload) for name in ("letters", "mine") for item in server.queues[name]]
            assert found == [0, 1]

    asyncio.run(go())
