"""Replicas are restarted one after the other under load: no job is lost, none that was settled comes back."""

from __future__ import annotations

import itertools
import random
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.lab import plain
from tests.lab.waiting import until
from tests.leases.cluster import Cluster, clustered

PRODUCERS, CONSUMERS = 2, 4
PAUSE_S = WORK_S = 0.2
"""The longest pause before an enqueue, and the longest work on a job: at any moment some jobs are under lease, and two
cores, of which a job takes 13 ms in all, are not busy with the load."""
ACKED = 20
"""Jobs before each restart: by then every client has used both replicas."""


class Load:
    """Producers and consumers that go to any replica, and to the other one when it does not serve."""

    def __init__(self, cluster: Cluster) -> None:
        self._urls = [each.url for each in cluster.replicas]
        self._numbers = itertools.count()
        self.stored: set[int] = set()
        self.acked: dict[int, float] = {}
        self.faults: list[str] = []
        self.refused: list[tuple[int, str]] = []
        self._producing = threading.Event()
        self._consuming = threading.Event()
        work = [self._produce] * PRODUCERS + [self._consume] * CONSUMERS
        self._threads = [threading.Thread(target=each, args=(number,)) for number, each in enumerate(work)]

    def start(self) -> None:
        for each in self._threads:
            each.start()

    def stop_producing(self) -> None:
        self._producing.set()
        for each in self._threads[:PRODUCERS]:
            each.join(20)

    def stop(self) -> None:
        self.stop_producing()
        self._consuming.set()
        for each in self._threads:
            each.join(20)
            assert not each.is_alive()

    def _produce(self, seed: int) -> None:
        choice = random.Random(seed)
        with plain.client(timeout=30) as http:
            while not self._producing.is_set():
                time.sleep(choice.random() * PAUSE_S)
                number = next(self._numbers)
                try:
                    answer = http.post(f"{choice.choice(self._urls)}/queues/work/jobs", json=number)
                except httpx.TransportError:
                    continue  # whether it is stored is not known
                if answer.status_code == 201:
                    self.stored.add(number)

    def _consume(self, seed: int) -> None:
        choice = random.Random(seed)
        with plain.client(timeout=30) as http:
            while not self._consuming.is_set():
                asked_s = time.monotonic()
                try:
                    answer = http.get(f"{choice.choice(self._urls)}/queues/work/next?timeout=0.5&lease=30")
                except httpx.TransportError:
                    continue
                if answer.status_code != 200:
                    continue
                number = answer.json()["data"]
                if self.acked.get(number, asked_s) < asked_s:
                    self.faults.append(f"job {number} was delivered after its ack was answered")
                time.sleep(choice.random() * WORK_S)
                self._settle(http, choice, answer.json()["lease"]["url"], number)

    def _settle(self, http: httpx.Client, choice: random.Random, path: str, number: int) -> None:
        """Acks through any replica, and repeats it until there is a definite answer."""
        for _ in range(200):
            try:
                answer = http.post(choice.choice(self._urls) + path + "/ack")
            except httpx.TransportError:
                continue
            if answer.status_code == 204:
                self.acked[number] = time.monotonic()
                return
            self.refused.append((answer.status_code, answer.json()["code"]))
            if answer.status_code in (404, 409, 410):
                return
            time.sleep(0.01)


@pytest.mark.parametrize("workers", [pytest.param("1", marks=pytest.mark.slow), "2"])
def test_a_rolling_restart_loses_and_repeats_nothing(tmp_path: Path, workers: str) -> None:
    """Each of two replicas is ended by SIGTERM and started again, while acks go to either."""
    with clustered(tmp_path) as cluster:
        for _ in range(2):
            cluster.start("--workers", workers, "--log-level", "warning", "--grace", "60")
        load = Load(cluster)
        load.start()
        try:
            for replica in cluster.replicas:
                before = len(load.acked)
                until(lambda before=before: len(load.acked) > before + ACKED)  # type: ignore[misc]
                replica.process.send_signal(signal.SIGTERM)
                # Leases of 0.2 s hold up the drain no longer than they last. The grace is a minute.
                assert replica.process.wait(30) == 0, replica.log.read_text()
                replica.start()
            load.stop_producing()
            until(lambda: load.stored <= set(load.acked))
        finally:
            load.stop()
        assert not load.faults
        assert len(load.stored) > ACKED * len(cluster.replicas)
        assert not [each for each in load.refused if each[0] != 502], "a lease was lost within the grace"
        with cluster.replicas[0].client() as http:
            assert http.get("/queues/work/next?timeout=0").status_code == 204
