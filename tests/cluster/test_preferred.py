"""Next from several queues over several servers: the preference holds under load, and nothing is stranded."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from gateway.envelope.times import instant
from tests.cluster.rig import before, brokers
from tests.lab.examples import examples
from tests.lab.gateway import Running

QUEUES = ["high", "mid", "low"]
CONSUMERS = 8
LATE_S = 0.5
"""A preferred job may be leased by its own poll this much later than a less preferred one. The machine runs others."""
LEASE_S = 60.0
"""The default length of a lease."""


@dataclass
class Run:
    """What happened. stored: when a job was answered 201. taken: for each job when its poll began, and its lease.

    again: jobs whose first answer was written to a client that vanished just then, so that their lease had to end.
    """

    stored: dict[str, tuple[int, float]] = field(default_factory=dict)
    taken: dict[str, tuple[int, float, float]] = field(default_factory=dict)
    again: set[str] = field(default_factory=set)
    doubled: list[str] = field(default_factory=list)
    vanished: int = 0
    produced: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)


def produce(gateway: Running, run: Run, jobs: int) -> None:
    """Bursts on the three queues, the least preferred one most."""
    chance = random.Random(1)
    with gateway.client() as http:
        left = jobs
        while left:
            place = chance.choice([0, 1, 1, 2, 2, 2])
            count = min(left, chance.randrange(1, 20))
            body = {"jobs": [{"data": place}] * count}
            results = http.post(f"/queues/{QUEUES[place]}/jobs/batch", json=body).json()["results"]
            with run.lock:
                run.stored |= {each["id"]: (place, time.monotonic()) for each in results}
            left -= count
            if chance.random() < 0.2:
                time.sleep(chance.uniform(0, 0.05))  # the queues become empty now and then
    run.produced.set()


def consume(gateway: Running, run: Run, jobs: int, number: int) -> None:
    """Takes and acks until all jobs are there; now and then it vanishes in the middle of a poll."""
    chance = random.Random(number)
    poll = "/next?timeout=1&" + "&".join(f"queue={each}" for each in QUEUES)
    while len(run.taken) < jobs:
        with gateway.client() as http:
            for _ in range(chance.randrange(5, 40)):
                began_s = time.monotonic()
                answer = http.get(poll)
                if answer.status_code != 200:
                    assert answer.status_code == 204, answer.text
                    if len(run.taken) >= jobs:
                        return
                    continue
                job = answer.json()
                leased_s = instant(job["lease"]["expires_at"]) - LEASE_S - time.time() + time.monotonic()
                assert answer.headers["queue-name"] == QUEUES[job["data"]] == job["queue"]
                assert http.post(job["lease"]["url"] + "/ack").status_code == 204
                with run.lock:
                    if job["id"] in run.taken:
                        run.doubled.append(job["id"])
                    if job["attempt"] > 1:
                        run.again.add(job["id"])
                    run.taken[job["id"]] = (job["data"], began_s, leased_s)
        connection = gateway.connect()
        query = "&".join(f"queue={each}" for each in QUEUES)
        connection.sendall(f"GET /next?timeout=20&lease_seconds=1&{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        time.sleep(chance.uniform(0, 0.01))
        connection.close()
        with run.lock:
            run.vanished += 1


def violations(run: Run) -> list[tuple[str, str]]:
    """Pairs of jobs: one was delivered although a preferred one had been stored before its poll began, and was left."""
    found = []
    by_place = [sorted((at, each) for each, (place, at) in run.stored.items() if place == level) for level in range(3)]
    for name, (place, began_s, leased_s) in run.taken.items():
        for level in range(place):
            for stored_s, other in by_place[level]:
                if stored_s > began_s:
                    break
                if other not in run.again and run.taken[other][2] > leased_s + LATE_S:
                    found.append((name, other))
    return found


@pytest.mark.parametrize("jobs", [examples(300, fewest=150), pytest.param(10_000, marks=pytest.mark.slow)])
def test_the_preference_holds_and_nothing_is_stranded(tmp_path, jobs):
    """Three queues, eight consumers of which some vanish all the time, three servers, two workers."""
    run = Run()
    with brokers(tmp_path, 3) as servers, before(tmp_path, servers, "--workers", "2") as gateway:
        began_s = time.monotonic()
        with ThreadPoolExecutor(CONSUMERS + 1) as pool:
            work = [pool.submit(produce, gateway, run, jobs)]
            work += [pool.submit(consume, gateway, run, jobs, number) for number in range(CONSUMERS)]
            for each in work:
                each.result(900)
        took_s = time.monotonic() - began_s
        with gateway.client() as http:
            left = [http.get(f"/queues/{each}?missing=zero").json()["backlog"] for each in QUEUES]
    waited = sorted(
        leased - max(began, run.stored[name][1])
        for name, (_, began, leased) in run.taken.items()
        if name not in run.again
    )
    broken = violations(run)
    print(
        f"{jobs} jobs in {took_s:.1f} s, {run.vanished} consumers vanished, {len(run.again)} with a job: "
        f"{len(broken)} violations, p50 {waited[len(waited) // 2] * 1000:.0f} ms, max {waited[-1] * 1000:.0f} ms"
    )
    assert (run.taken.keys(), run.doubled, left) == (run.stored.keys(), [], [0, 0, 0])
    assert not broken
    assert run.vanished
