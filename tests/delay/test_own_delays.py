"""Delays of a policy have a holding queue of their own: a job makes one hop, and comes whoever looks at the queue."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import datetime
from pathlib import Path

import httpx
import pytest

from gateway.delivery.delay import server_watch, watch
from gateway.delivery.delay.held_job import HeldJob
from gateway.envelope.due import milliseconds
from tests.delay.support import JumpingClock, delay_rig
from tests.lab.broker import BrokerProcess
from tests.lab.gateway import Running
from tests.lab.ledger import figures, total
from tests.lab.memcache import MemcacheClient

WAIT_MS = 1700
KEY = f"_kestrel-gateway__delay-of-{WAIT_MS}"


def test_a_job_with_a_delay_of_its_own_makes_one_hop(
    own_broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is on the queue of its delay until it is due. Without such a queue, it goes through the levels."""
    monkeypatch.setattr(server_watch, "FOREIGN_S", 60.0)
    monkeypatch.setattr(watch, "MEMBERS_S", 86_400.0)
    clock = JumpingClock()

    async def work() -> None:
        async with delay_rig(own_broker.address, clock=clock, workers=2) as rigs:
            for own in (True, False):
                for rig in rigs[: 2 if own else 0]:
                    rig.holding.add_own(77_700)
                before = sum(rig.mover.statistics.hops for rig in rigs)
                clock.stopped = True
                wait_ms = 77_700 if own else 0
                jobs = []
                for number in range(3):
                    due_ms = milliseconds(clock.wall_s() + 77.7)
                    await rigs[0].holding.hold(HeldJob("", f"q-{number}", due_ms, b"job"), wait_ms)
                    jobs.append((f"q-{number}", due_ms))
                    clock.step(0.05)
                clock.stopped = False
                for name, due_ms in jobs:
                    assert 0 <= await rigs[0].arrival(name) - due_ms / 1000 < 20
                    assert await rigs[0].taken(name) == []
                hops = sum(rig.mover.statistics.hops for rig in rigs) - before
                assert (hops == 0) is own

    asyncio.run(work())


def nack(http: httpx.Client) -> dict:
    lease = http.get("/queues/q/next?timeout=10").json()["lease"]["url"]
    return http.post(f"{lease}/nack").json()


def test_the_queue_is_known_to_a_gateway_without_the_policy(tmp_path: Path) -> None:
    """The delay is stored on Kestrel, so another gateway looks at its queue after the first one was killed."""
    (tmp_path / "queues.toml").write_text(f"[queues.q]\nretry_delay = [{WAIT_MS / 1000}]\n")
    with BrokerProcess(tmp_path / "broker") as broker, contextlib.closing(MemcacheClient(broker.address)) as memcache:
        first = Running(
            tmp_path / "first", "--kestrel", broker.address, "--queues", str(tmp_path / "queues.toml"), "--workers", "2"
        )
        try:
            with first.client() as http:
                number = 0
                while not memcache.queues().get(KEY, {}).get("items"):
                    number += 1
                    assert number < 50, "no job came to the queue of its delay"
                    assert http.post("/queues/q/jobs", json=number).status_code == 201
                    nacked = nack(http)
                    time.sleep(0.05)
                while nacked["position"] != "tail":
                    nacked = nack(http)
        finally:
            first.kill()
        other = Running(tmp_path / "other", "--kestrel", broker.address)
        try:
            with other.client() as http:
                came = []
                while len(came) < number:
                    answer = http.get("/queues/q/next?timeout=20&ack=auto")
                    assert answer.status_code == 200, f"{len(came)} of {number} jobs came"
                    came.append(answer.json())
                last = next(each for each in came if each["data"] == number)
                assert time.time() >= datetime.fromisoformat(nacked["due_at"]).timestamp()
                assert last["attempt"] == 2
                assert total(figures(http.get("/metrics").text), "delayed_jobs_refused_total") == 0
        finally:
            other.kill()
