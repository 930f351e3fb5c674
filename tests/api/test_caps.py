"""Limits of delivery over HTTP: `max_in_flight` and `rate` hold over all workers of a gateway, whatever is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import httpx
import pytest

from tests.lab.broker import BrokerProcess
from tests.lab.gateway import Running, running
from tests.lab.processes import children_of
from tests.lab.waiting import until
from tests.streams.reader import StreamReader

MOST = 3
RATE = 40.0
BURST = 4
"""The most jobs that make up for a time without deliveries: those of a tenth of a second."""
POLICIES = f"""
[queues."cap-*"]
max_in_flight = {MOST}
[queues."rate-*"]
rate = {RATE}
"""


@pytest.fixture(scope="module", params=["embedded", "memcache"])
def capped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway with two workers and limits, with its own broker, and with one that it knows by memcache only."""
    folder = tmp_path_factory.mktemp("caps")
    policies = folder / "queues.toml"
    policies.write_text(POLICIES)
    flags = ["--workers", "2", "--queues", str(policies)]
    with contextlib.ExitStack() as stack:
        if request.param == "memcache":
            flags += ["--kestrel", stack.enter_context(BrokerProcess(folder / "broker", "--fsync", "off")).address]
        yield stack.enter_context(running(folder / "data", *flags))


def put(http: httpx.Client, queue: str, count: int) -> None:
    jobs = {"jobs": [{"data": str(number)} for number in range(count)]}
    assert http.post(f"/queues/{queue}/jobs/batch", json=jobs).status_code == 201


def take(http: httpx.Client, queue: str, timeout: float = 0, lease: int = 60) -> httpx.Response:
    return http.get(f"/queues/{queue}/next", params={"timeout": timeout, "lease_seconds": lease})


def limit_of(http: httpx.Client, queue: str) -> str:
    """What limits the queue; empty if it gives a job, which is given back."""
    answer = take(http, queue)
    if answer.status_code != 200:
        return answer.headers["queue-limited"]
    assert http.post(answer.json()["lease"]["url"] + "/nack", json={"position": "head"}).status_code == 204
    return ""


def workers_of(gateway: Running) -> list[int]:
    return [pid for pid, line in children_of(gateway.process.pid).items() if "gateway.process.worker" in line]


def test_a_capped_poll_waits_for_a_lease_to_end(capped: Running, queue: str) -> None:
    """At the limit `next` is 204 with Queue-Limited; an ack, a nack or the end of a lease lets the next job out."""
    queue = f"cap-{queue}"
    with contextlib.ExitStack() as stack, ThreadPoolExecutor() as pool:
        clients = [stack.enter_context(capped.client()) for _ in range(6)]
        put(clients[0], queue, 10)
        leases = [take(clients[number], queue, 5, 60 if number else 2).headers["lease-id"] for number in range(MOST)]
        answer = take(clients[0], queue)
        assert (answer.status_code, answer.headers["queue-limited"]) == (204, "max_in_flight")
        answer = clients[1].post(f"/queues/{queue}/leases", json={"timeout": 0})
        assert (answer.json(), answer.headers["queue-limited"]) == ({"jobs": []}, "max_in_flight")
        waiting = pool.submit(take, clients[4], queue, 20)
        time.sleep(0.2)
        assert not waiting.done()
        assert clients[1].post(f"/leases/{leases[1]}/ack").status_code == 204
        assert waiting.result(5).status_code == 200
        assert clients[2].post(f"/leases/{leases[2]}/nack", json={}).status_code == 204
        assert take(clients[3], queue, 5).status_code == 200
        assert take(clients[5], queue, 10).status_code == 200, "the first lease has expired by then"
        assert take(clients[0], queue, 0.3).headers["queue-limited"] == "max_in_flight"
        assert clients[0].delete(f"/queues/{queue}").status_code == 200


def test_an_empty_queue_is_not_limited(capped: Running, queue: str) -> None:
    """More polls than places on an empty queue: none says that it is limited, and all places serve the next jobs."""
    queue = f"cap-{queue}"
    with contextlib.ExitStack() as stack, ThreadPoolExecutor() as pool:
        clients = [stack.enter_context(capped.client()) for _ in range(MOST + 3)]
        polls = [pool.submit(take, each, queue, 1) for each in clients]
        for poll in polls:
            answer = poll.result(10)
            assert answer.status_code == 204
            assert "queue-limited" not in answer.headers


class Consumers:
    """Threads that take jobs, work for a moment and ack. most: jobs that were in work at once, over all of them."""

    def __init__(self, gateway: Running, queue: str, count: int, work_s: float = 0.02) -> None:
        self.delivered: list[float] = []
        self.most = self._now = 0
        self._queue = queue
        self._work_s = work_s
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._consume, args=(gateway,)) for _ in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _consume(self, gateway: Running) -> None:
        while not self._over.is_set():
            with contextlib.suppress(httpx.TransportError), gateway.client() as http:
                while not self._over.is_set():
                    self._one(http)

    def _one(self, http: httpx.Client) -> None:
        answer = take(http, self._queue, 0.5)
        if answer.status_code != 200:
            return
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            self.delivered.append(time.monotonic())
        try:
            time.sleep(self._work_s)
        finally:
            with self._lock:
                self._now -= 1
        http.post(answer.json()["lease"]["url"] + "/ack")


@pytest.mark.slow
def test_never_more_in_flight_over_all_workers_under_kills(capped: Running, queue: str) -> None:
    """Consumers at two workers, one of which is killed again and again: the limit holds, and all places come back."""
    queue = f"cap-{queue}"
    with capped.client() as http:
        put(http, queue, 900)
        with Consumers(capped, queue, 12) as consumers:
            for _ in range(3):
                delivered = len(consumers.delivered)
                deadline_s = time.monotonic() + 60
                while len(consumers.delivered) < delivered + 30:
                    assert time.monotonic() < deadline_s, "no jobs come any more"
                    time.sleep(0.01)
                os.kill(workers_of(capped)[0], signal.SIGKILL)
            time.sleep(0.5)
        # A consumer whose worker was killed may still work on a job whose lease has ended with the worker.
        assert MOST <= consumers.most <= 2 * MOST
        deadline_s = time.monotonic() + 60
        while len(workers_of(capped)) < 2 or http.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        with Consumers(capped, queue, 12) as consumers:
            time.sleep(1.5)
        assert consumers.most == MOST


@pytest.mark.slow
def test_the_rate_is_kept(capped: Running, queue: str) -> None:
    """Consumers that could take more get at most the rate, over both workers. KESTREL_GATEWAY_TEST_TIMES, for a quiet
    machine: it is the rate, within five percent."""
    queue = f"rate-{queue}"
    with capped.client() as http:
        put(http, queue, 600)
        began_s = time.monotonic()
        with Consumers(capped, queue, 10, work_s=0) as consumers:
            time.sleep(6)
        times = consumers.delivered
        assert 0 < len(times) <= RATE * (time.monotonic() - began_s) + BURST
        if "KESTREL_GATEWAY_TEST_TIMES" in os.environ:
            assert (len(times) - 1) / (times[-1] - times[0]) == pytest.approx(RATE, rel=0.05)
            quick = max(sum(start <= each < start + 0.5 for each in times) for start in times)
            assert quick <= RATE * 0.5 + 2 * BURST
        while (answer := take(http, queue)).status_code == 200:
            pass
        assert answer.headers["queue-limited"] == "rate"


def test_a_reload_counts_leases_that_are_open(tmp_path: Path) -> None:
    """A limit that SIGHUP sets holds for leases from before; without it, polls that wait go on at once."""
    policies = tmp_path / "queues.toml"
    policies.write_text("")
    with running(tmp_path / "data", "--queues", str(policies)) as gateway, gateway.client() as http:
        put(http, "q", 10)
        leases = [take(http, "q").headers["lease-id"] for _ in range(2)]
        policies.write_text("[queues.q]\nmax_in_flight = 2\n")
        gateway.process.send_signal(signal.SIGHUP)
        until(lambda: limit_of(http, "q") == "max_in_flight", within_s=5)
        http.post(f"/leases/{leases[0]}/ack")
        assert take(http, "q").status_code == 200
        with ThreadPoolExecutor() as pool, gateway.client() as other:
            waiting = pool.submit(take, other, "q", 20)
            time.sleep(0.3)
            assert not waiting.done()
            policies.write_text("")
            gateway.process.send_signal(signal.SIGHUP)
            assert waiting.result(10).status_code == 200


def test_batches_and_streams_count_for_the_limit(capped: Running, queue: str) -> None:
    """Over all workers: batches take what is left, a stream with a large window gets what becomes free."""
    name = f"cap-many-{queue}"
    with capped.client() as http:
        put(http, name, 20)
    urls: list[str] = []
    taken = 0
    for _ in range(8):  # over new connections, so that every worker has some
        with capped.client() as http:
            answer = http.get(f"/queues/{name}/next", params={"max": 10, "timeout": 0})
            if answer.status_code == 200:
                taken += len(answer.json()["jobs"])
                urls.append(answer.json()["lease"]["url"])
            else:
                assert answer.headers["queue-limited"] == "max_in_flight"
    assert taken == MOST
    with StreamReader(capped, f"/queues/{name}/stream?window=10") as stream, capped.client() as http:
        stream.next("open")
        assert http.get(f"/queues/{name}").json()["open_reads"] == MOST
        for url in urls:
            assert http.post(f"{url}/ack").status_code == 204
        jobs = stream.jobs(MOST)
        assert take(http, name).headers["queue-limited"] == "max_in_flight"
        assert http.post("/leases/settle", json={"acks": [job["lease"]["id"] for job in jobs]}).status_code == 200
        assert len(stream.jobs(MOST)) == MOST
        assert http.get(f"/queues/{name}").json()["open_reads"] == MOST
