"""Real Kestrel sometimes wakes no waiter for a new item: no poll ends empty for that, no job waits for long."""

import asyncio
import os
import random
import time

import pytest

from tests.kestrel.standin import Manners, StandIn
from tests.kestrel.support import client, until
from tests.lab.waiting import undisturbed

POLLS = int(os.environ.get("KESTREL_GATEWAY_TEST_LOST_WAKEUPS", "300"))
QUEUES = 150
LATEST_S = 1.5


@pytest.mark.parametrize("polls", [150, pytest.param(POLLS, marks=pytest.mark.slow)])
@undisturbed(0.03)
def test_no_poll_ends_empty_with_a_job_there_and_no_job_waits_for_long(polls):
    """One set in ten wakes no waiter; half of the jobs come from another client. A poll waits up to three seconds."""
    took, early, empty = [], [], 0

    async def main():
        async with StandIn(Manners(lost_wakeups=10)) as server, client(server.address) as kestrel:
            rng = random.Random(7)

            async def put(key, after_s, ours):
                await asyncio.sleep(after_s)
                data = b"%s %f" % (key.encode(), time.monotonic())
                if ours:
                    await kestrel.put(key, data)
                else:
                    server.append(key, data)

            async def consume(key):
                nonlocal empty
                for _ in range(polls // QUEUES):
                    timeout_s = rng.uniform(0.2, 3)
                    job = asyncio.ensure_future(put(key, rng.uniform(0, timeout_s * 1.1), rng.random() < 0.5))
                    began = time.monotonic()
                    read = await kestrel.wait(key, timeout_s).result()
                    ended = time.monotonic()
                    if read is None:
                        empty += 1
                        there = [server.stored_at[data] for data in server.queues.get(key, ())]
                        early.extend(stored_at for stored_at in there if stored_at < began + timeout_s)
                    else:
                        took.append(ended - max(began, server.stored_at[read.data]))
                        await read.confirm()
                    await job

            await asyncio.gather(*(consume(f"q{i}") for i in range(QUEUES)))
            lost = server.appended // 10
            print(
                f"{polls} polls, {lost} lost wake-ups: {len(early)} ended empty with a job there, {empty} with none; "
                f"jobs after {sorted(took)[len(took) // 2] * 1000:.1f} ms at p50, {max(took) * 1000:.0f} ms at most"
            )

    asyncio.run(main())
    assert not early, "a poll ended empty with a job there"
    assert max(took) < LATEST_S
    assert len(took) > polls / 2


@undisturbed(0.03)
def test_our_own_job_is_asked_for_when_nobody_wakes():
    """Every wake-up is lost: our job comes after about 50 ms, another client's with the next get."""

    async def main():
        async with StandIn(Manners(lost_wakeups=1)) as server, client(server.address) as kestrel:
            for ours, latest_s, times in ((True, 0.4, 3), (False, LATEST_S, 1)):
                took_s = []
                for _ in range(times):
                    poll = asyncio.ensure_future(kestrel.wait("q", 20).result())
                    await until(lambda: server.waiters.get("q"))
                    began = time.monotonic()
                    if ours:
                        await kestrel.put("q", b"x")
                    else:
                        server.append("q", b"x")
                    await (await poll).confirm()
                    took_s.append(time.monotonic() - began)
                assert min(took_s) < latest_s

    asyncio.run(main())
