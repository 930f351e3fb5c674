"""Gateways that are killed while batches are taken and settled: no job is lost, and no acked one comes again."""

import os
import random
import threading
import time

import httpx
import pytest

from tests.lab.broker import BrokerProcess
from tests.lab.gateway import Running, running

KILLS = int(os.environ.get("KESTREL_GATEWAY_TEST_BATCH_KILLS", "5"))
JOBS = 60


class Consumer(threading.Thread):
    """Takes batches and settles each job of them in a way of its own. acked: confirmed. unknown: maybe acked.

    twice: jobs with a nack to the tail that was not answered. A copy that is interrupted may leave a job twice
    (docs/contract.md), so the other one comes though one was acked.
    """

    def __init__(self, gateway: Running, seed: int, acked: set[int], unknown: set[int], twice: set[int]) -> None:
        super().__init__()
        self.gateway = gateway
        self.random = random.Random(seed)
        self.acked = acked
        self.unknown = unknown
        self.twice = twice
        self.again: list[int] = []
        self.batches = 0

    def run(self) -> None:
        try:
            with self.gateway.client() as http:
                while True:
                    self.step(http)
        except (httpx.TransportError, OSError):
            return  # the gateway was killed

    def step(self, http: httpx.Client) -> None:
        answer = http.get("/queues/q/next?max=20&timeout=1")
        if answer.status_code != 200:
            return
        numbers = [job["data"] for job in answer.json()["jobs"]]
        self.again += [number for number in numbers if number in self.acked - self.twice]
        self.batches += 1
        nacked = {index for index in range(len(numbers)) if self.random.random() < 0.6}
        places = {index: self.random.choice(["head", "tail"]) for index in sorted(nacked)}
        wanted = {"rest": "ack", "nacks": [{"job": index, "position": place} for index, place in places.items()]}
        moved = {numbers[index] for index, place in places.items() if place == "tail"} - self.twice
        acked = {number for index, number in enumerate(numbers) if index not in nacked}
        self.unknown -= set(numbers)
        self.unknown |= acked
        if self.random.random() < 0.3:
            checkpoint = http.post(answer.json()["lease"]["url"] + "/nack", json={"position": "head"})
            if checkpoint.status_code in (200, 204):
                self.unknown -= acked
            return
        self.twice |= moved
        settled = http.post(answer.json()["lease"]["url"] + "/settle", json=wanted)
        if settled.status_code in (200, 207):
            for index, result in enumerate(settled.json()["results"]):
                if index not in nacked and result["status"] == 204:
                    self.acked.add(numbers[index])
                    self.unknown.discard(numbers[index])
                elif index in nacked and result["status"] in (200, 204):
                    self.twice -= {numbers[index]} & moved


@pytest.mark.slow
@pytest.mark.parametrize("server", ["embedded", "memcache 100", "memcache 1"])
def test_a_gateway_that_is_killed(tmp_path, server):
    """At random moments, again and again; in the end every job was acked or comes, and no acked one has come."""
    flags = ["--max-attempts", "100000"]
    broker = None
    if server != "embedded":
        broker = BrokerProcess(tmp_path / "broker", "--fsync", "off", "--max-open-reads", server.split()[1])
        flags += ["--kestrel", broker.address, "--kestrel-open-reads", "100"]
    chosen = random.Random(7)
    acked: set[int] = set()
    unknown: set[int] = set()
    twice: set[int] = set()
    batches = total = 0
    try:
        with running(tmp_path / "data", *flags) as gateway:
            for kill in range(KILLS):
                with gateway.client() as http:
                    jobs = {"jobs": [{"data": total + number} for number in range(JOBS)]}
                    assert http.post("/queues/q/jobs/batch", json=jobs).status_code == 201
                    total += JOBS
                consumer = Consumer(gateway, kill, acked, unknown, twice)
                consumer.start()
                time.sleep(chosen.uniform(0.02, 0.5))  # the moment of the kill
                gateway.kill()
                consumer.join(30)
                assert consumer.again == []
                batches += consumer.batches
                gateway.start()
            seen: set[int] = set()
            with gateway.client() as http:
                while (answer := http.get("/queues/q/next?max=100&timeout=2&ack=auto")).status_code == 200:
                    numbers = {job["data"] for job in answer.json()["jobs"]}
                    assert not numbers & (acked - twice), "an acked job came again"
                    seen |= numbers
        figures = f"{len(acked)} acked, {len(seen)} left, {len(twice)} maybe twice"
        print(f"{server}: {KILLS} kills, {batches} batches, {total} jobs, {figures}")
        assert batches
        assert set(range(total)) - acked - seen <= unknown, "a job is lost"
        assert len(twice) < total / 4
    finally:
        if broker is not None:
            broker.__exit__(None, None, None)
