"""Delayed jobs on the embedded broker and on stand-ins: they come when they are due, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from gateway.config.policies import Format, Policy
from gateway.delivery.delay import server_watch, watch
from gateway.delivery.delay.levels import LEVELS
from gateway.envelope.due import LONGEST_DELAY_S
from gateway.errors import DelayBeyondExpiry
from gateway.kestrel.health import Health
from tests.cluster.rig import brokers
from tests.delay.support import JumpingClock, delay_rig
from tests.kestrel.conftest import on_a_socket
from tests.kestrel.support import until
from tests.lab.broker import BrokerProcess
from tests.lab.examples import examples

DAY_S = 86_400.0
ALL_LEVELS_S = (2**25 - 1) / 16 + 0.05
"""A delay that passes through every level but the last one."""
DELAYS_S = {"all": ALL_LEVELS_S, "month": LONGEST_DELAY_S}


async def come(rig, name: str, count: int = 1) -> None:
    async with asyncio.timeout(20):
        while await rig.items(name) < count:
            await asyncio.sleep(0.02)


def test_a_month_passes_through_all_levels(own_broker, monkeypatch):
    """On a clock that jumps: 30 days and a delay with a stay in each level end at their time, not before."""
    for module, name in ((server_watch, "FOREIGN_S"), (server_watch, "EMPTY_S"), (server_watch, "RECHECK_S")):
        monkeypatch.setattr(module, name, DAY_S)
    monkeypatch.setattr(watch, "MEMBERS_S", DAY_S)
    clock = JumpingClock()

    async def work():
        async with delay_rig(own_broker.address, clock=clock) as (rig,):
            seen: set[int] = set()
            rig.holding.on_held(lambda hop: seen.add(hop.level))
            due = {name: await rig.put(name, delay_s) for name, delay_s in DELAYS_S.items()}
            arrived = await asyncio.gather(*(rig.arrival(name) for name in due))
            for name, at_s in zip(due, arrived, strict=True):
                assert 0 <= at_s - due[name] / 1000 < 20, name
                assert await rig.taken(name) == []
            assert await rig.held() == 0
            assert seen == set(range(LEVELS))

    asyncio.run(work())


@pytest.mark.parametrize("step_s", [-600.0, 600.0])
def test_a_step_of_the_wall_clock_loses_nothing(own_broker, step_s, monkeypatch):
    """Jobs of all lengths, a step of ten minutes in the middle, longer than each of them, and new jobs after it: each
    comes once, when the wall clock says so, and old ones do not hold up new ones."""
    monkeypatch.setattr(server_watch, "FOREIGN_S", 60.0)
    monkeypatch.setattr(watch, "MEMBERS_S", DAY_S)
    clock = JumpingClock()

    async def work():
        async with delay_rig(own_broker.address, clock=clock) as (rig,):
            due = {}
            for delay_s in (0.1, 1.0, 3.3, 9.9, 61.0):
                name = f"old-{delay_s}".replace(".", "-")
                due[name] = await rig.put(name, delay_s)
            clock.step(step_s)
            for delay_s in (0.2, 2.0, 7.7):
                name = f"new-{delay_s}".replace(".", "-")
                due[name] = await rig.put(name, delay_s)
            arrived = await asyncio.gather(*(rig.arrival(name) for name in due))
            for name, at_s in zip(due, arrived, strict=True):
                assert at_s >= due[name] / 1000, name
                assert await rig.taken(name) == []
                if name.startswith("new"):
                    assert at_s - due[name] / 1000 < 20, name
            assert await rig.held() == 0

    asyncio.run(work())


def test_several_workers_move_each_job_once(own_broker):
    """Three workers, many jobs of up to a second: none early, none twice, none lost."""
    count = examples(300)

    async def work():
        async with delay_rig(own_broker.address, workers=3) as rigs:
            due = {}
            for number in range(count):
                name = b"%d" % number
                due[name] = await rigs[number % 3].put("q", (number % 100) / 100, name)
            late = []
            while due:
                read = await rigs[0].kestrel.wait("q", 10).result()
                assert read is not None
                late.append(time.time() - due.pop(read.data) / 1000)
                await read.confirm()
            assert min(late) >= 0
            assert await rigs[0].held() == 0
            assert [rig.mover.statistics.doubled for rig in rigs] == [0, 0, 0]
            assert await rigs[0].taken("q") == []

    asyncio.run(work())


def test_a_full_queue_gets_its_job_later_and_holds_up_nobody(tmp_path, monkeypatch):
    """The job waits again, is counted, and comes when there is room; the job behind it comes in time."""
    monkeypatch.setattr("gateway.delivery.delay.held_job_mover.REFUSED_S", 0.4)
    config = "[queues.full]\nmax_items = 1\n"

    async def work(address):
        async with delay_rig(address) as (rig,):
            await rig.put("full", 0, b"in the way")
            await rig.put("full", 0.2, b"late")
            await rig.put("other", 0.2, b"in time")
            await come(rig, "other")
            await until(lambda: rig.mover.statistics.refused)
            assert await rig.taken("full") == [b"in the way"]
            await come(rig, "full")
            assert await rig.taken("full") == [b"late"]
            assert await rig.held() == 0

    with BrokerProcess(tmp_path / "data", listen=f"unix:{tmp_path / 's'}", config=config) as broker:
        asyncio.run(work(broker.address))


def test_a_read_only_server_s_jobs_move_to_another(tmp_path):
    """They are there within seconds, however long their delay is, and the server is empty."""

    async def work(one, other):
        async with delay_rig(one.address, other.address) as (rig,):
            for number in range(40):
                await rig.put("q", 5000 + 100 * number)
            by_server = (await rig.kestrel.queue_stats(*rig.holding.keys)).servers
            leaving = max(by_server, key=lambda name: sum(each.items for each in by_server[name].values()))
            await rig.kestrel.set_status(leaving, Health.READONLY)
            async with asyncio.timeout(10):
                while True:
                    merged = await rig.kestrel.queue_stats(*rig.holding.keys)
                    left = merged.servers.get(leaving, {}).values()
                    if not sum(each.items + each.open_reads for each in left):
                        break
                    await asyncio.sleep(0.05)
            assert await rig.held() == 40

    with brokers(tmp_path, 2) as (one, other):
        asyncio.run(work(one, other))


def test_a_server_that_drops_delayed_jobs_is_an_error(tmp_path, caplog):
    """A limit of the server on holding queues is noticed: in the log and as a figure."""
    config = '[queues."_kestrel-gateway__delay-10"]\nmax_items = 2\ndiscard_old_when_full = true\n'

    async def work(address):
        async with delay_rig(address) as (rig,):
            for _ in range(5):
                await rig.put("q", 100)
            await until(lambda: sum(rig.jobs.dropped.values()) == 3, 70)

    with (
        BrokerProcess(tmp_path / "data", listen=f"unix:{tmp_path / 's'}", config=config) as broker,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(server_watch, "EMPTY_S", 1.0)
        patch.setattr(server_watch, "RECHECK_S", 0.5)
        asyncio.run(work(broker.address))
    assert "has dropped 3 delayed jobs from _kestrel-gateway__delay-10" in caplog.text


def test_a_foreign_item_is_set_aside(own_broker, caplog):
    """What a memcache client puts on a holding queue is in nobody's way, and is not dropped; neither is a job for a
    queue that cannot exist here."""

    async def work():
        async with delay_rig(own_broker.address) as (rig,):
            await rig.kestrel.put(rig.holding.keys[4], b"anything")
            await rig.put("q", 1.0)
            await come(rig, "q")
            await come(rig, rig.holding.unreadable_key)
            assert await rig.taken(rig.holding.unreadable_key) == [b"anything"]
            assert rig.mover.statistics.unreadable == 1

    asyncio.run(work())
    assert "is moved to _kestrel-gateway__delay-unreadable: " in caplog.text


def test_policies_hold_on_arrival(own_broker):
    """The key that the policy has now; a job that has expired meanwhile is dropped; a raw item arrives unchanged."""
    policies = {"moved": Policy(key="elsewhere"), "raw": Policy(format=Format.RAW)}

    async def work():
        async with delay_rig(own_broker.address, policies=policies) as (rig,):
            await rig.put("moved", 0.1, b"a")
            await rig.put("raw", 0.1, b"\r\n\x00END\r\n")
            with pytest.raises(DelayBeyondExpiry, match="expires at"):
                await rig.put("gone", 0.2, b"b", expires_s=time.time() + 0.2)
            stored = False
            while not stored:  # again if the machine stalls for this millisecond
                with contextlib.suppress(DelayBeyondExpiry):
                    await rig.put("gone", 0.2, b"b", expires_s=time.time() + 0.201)
                    stored = True
            await come(rig, "elsewhere")
            await come(rig, "raw")
            assert await rig.taken("raw") == [b"\r\n\x00END\r\n"]
            async with asyncio.timeout(20):
                while await rig.held():
                    await asyncio.sleep(0.01)
            assert await rig.taken("gone") == [] or rig.mover.statistics.expired == 0

    asyncio.run(work())


def test_an_idle_gateway_asks_little(tmp_path):
    """Without delayed jobs a worker sends about one command a second, and creates no queue."""

    async def work(address):
        async with delay_rig(address) as (rig,):
            await asyncio.sleep(0.2)
            before = rig.kestrel.statistics().commands
            await asyncio.sleep(3)
            assert rig.kestrel.statistics().commands - before <= 7
            assert await rig.kestrel.keys() == frozenset()

    with on_a_socket(tmp_path) as broker:  # which has never had a queue
        asyncio.run(work(broker.address))
