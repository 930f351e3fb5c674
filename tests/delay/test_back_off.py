"""The times between the attempts of failing jobs fit the policy: never shorter, and in the long form not much longer.

KESTREL_GATEWAY_TEST_TIMES checks how late they are, too, which depends on the machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from gateway.envelope.times import instant
from tests.lab.examples import examples
from tests.lab.gateway import Running, running

LATE_S = 0.5 if "KESTREL_GATEWAY_TEST_TIMES" in os.environ else 600.0
STEPS_S = [0.2, 0.5]
POLICIES = f"""
[queues.steps]
retry_delay = {STEPS_S}
max_attempts = 4
[queues.grows]
retry_delay = {{ min = 0.1, max = 0.4, factor = 2, jitter = 0.5 }}
max_attempts = 4
"""
BOUNDS_S = {
    "steps": [(0.2, 0.2), (0.5, 0.5), (0.5, 0.5)],
    "grows": [(0.05, 0.15), (0.1, 0.3), (0.2, 0.6)],
}
"""The shortest and the longest time after each attempt."""


class Failing:
    """Consumers whose every attempt fails: most by a nack, some by the end of the lease."""

    def __init__(self, gateway: Running, queue: str, jobs: int) -> None:
        self.gateway = gateway
        self.queue = queue
        self.left = 4 * jobs
        self.failed: dict[int, dict[int, float]] = {}
        self.came: dict[int, dict[int, float]] = {}

    def consume(self) -> None:
        with self.gateway.client() as http:
            while self.left > 0:
                answer = http.get(f"/queues/{self.queue}/next?timeout=1&lease_seconds=60")
                at_s = time.monotonic()
                if answer.status_code != 200:
                    continue
                job = answer.json()
                number, attempt = job["data"], job["attempt"]
                self.came.setdefault(number, {})[attempt] = at_s
                failed = self.failed.setdefault(number, {})
                if number % 10 == 0 and attempt == 1:
                    lease = http.post(f"{job['lease']['url']}/extend", json={"lease_seconds": 1}).json()
                    failed[attempt] = instant(lease["expires_at"]) - time.time() + time.monotonic() - 0.01
                else:
                    failed[attempt] = time.monotonic()
                    assert http.post(f"{job['lease']['url']}/nack").status_code in {200, 204}
                self.left -= 1


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway with the policies."""
    directory = tmp_path_factory.mktemp("policies")
    (directory / "queues.toml").write_text(POLICIES)
    with running(directory / "data", "--queues", str(directory / "queues.toml"), "--workers", "2") as made:
        yield made


def dead_letters(http: httpx.Client, queue: str) -> int:
    """How many the queue has."""
    return int(http.get(f"/queues/{queue}/dead-letters").json()["items"])


@pytest.mark.parametrize("jobs", [examples(10, fewest=4), pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("queue", BOUNDS_S)
def test_the_times_between_attempts_fit_the_policy(gateway: Running, queue: str, jobs: int) -> None:
    """Every attempt comes, none before its time, by nacks and by expired leases."""
    with gateway.client() as http:
        for number in range(jobs):
            assert http.post(f"/queues/{queue}/jobs", json=number).status_code == 201
        dead_before = dead_letters(http, queue)
        failing = Failing(gateway, queue, jobs)
        with ThreadPoolExecutor(4) as pool:
            for each in [pool.submit(failing.consume) for _ in range(4)]:
                each.result(120)
        assert dead_letters(http, queue) - dead_before == jobs
    assert {tuple(sorted(came)) for came in failing.came.values()} == {(1, 2, 3, 4)}
    assert len(failing.came) == jobs
    for number, came in failing.came.items():
        for attempt, (shortest_s, longest_s) in enumerate(BOUNDS_S[queue], 1):
            waited_s = came[attempt + 1] - failing.failed[number][attempt]
            assert shortest_s <= waited_s <= longest_s + LATE_S, (number, attempt, waited_s)
