"""`next?ack=auto`: the job is acked before it is delivered, so it is never delivered twice."""

import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.api.test_jobs import waiters
from tests.lab.examples import examples
from tests.lab.gateway import Running, running
from tests.lab.processes import children_of
from tests.lab.waiting import until


def backlog(http, queue):
    """Asks again while the worker that answers has no connection to the broker yet."""
    answer = http.get(f"/queues/{queue}?missing=zero")
    while answer.status_code == 503:
        time.sleep(0.05)
        answer = http.get(f"/queues/{queue}?missing=zero")
    return answer.json()["backlog"]


@pytest.mark.parametrize("accept", ["", "application/json", "application/cloudevents+json", "text/plain"])
def test_the_job_is_gone_before_it_is_delivered(http, queue, accept):
    """In every form of the answer; the lease is acked, and acking it again is what it always is."""
    http.post(f"/queues/{queue}/jobs", content=b"work", headers={"Content-Type": "text/plain"})
    answer = http.get(f"/queues/{queue}/next?ack=auto", headers={"Accept": accept})
    assert (answer.status_code, answer.headers["lease-acked"]) == (200, "true")
    assert b"work" in answer.content
    assert backlog(http, queue) == 0
    lease = answer.headers["location"]
    assert http.get(lease).json()["state"] == "acked"
    assert http.post(lease + "/ack").status_code == 204
    assert http.post(lease + "/nack").json()["code"] == "lease-settled"
    empty = http.get(f"/queues/{queue}/next?ack=auto&timeout=0")
    assert (empty.status_code, "lease-acked" in empty.headers) == (204, False)


def test_the_lease_in_hand_is_acked_as_well(http, queue):
    """`LEASE,auto`: the one in hand, then the next one; without a next one the first counts all the same."""
    for number in range(2):
        http.post(f"/queues/{queue}/jobs", json=number)
    lease = http.get(f"/queues/{queue}/next").headers["lease-id"]
    answer = http.get(f"/queues/{queue}/next", params={"ack": f"{lease},auto"})
    assert (answer.json()["data"], answer.headers["lease-acked"], backlog(http, queue)) == (1, "true", 0)
    again = http.get(f"/queues/{queue}/next?timeout=0", params={"ack": f"{lease},auto", "timeout": 0})
    assert (again.status_code, again.headers["lease-acked"]) == (204, "true")


def test_the_request_with_a_body_has_it_too(http, queue):
    """`leaseJobs` with `ack: auto`."""
    http.post(f"/queues/{queue}/jobs", json=1)
    answer = http.post(f"/queues/{queue}/leases", json={"ack": "auto"})
    assert ([each["data"] for each in answer.json()["jobs"]], answer.headers["lease-acked"]) == ([1], "true")
    assert http.get(answer.json()["lease"]["url"]).json()["state"] == "acked"
    assert backlog(http, queue) == 0


@pytest.mark.parametrize("ack", ["Auto", "auto,auto", "auto," + "x" * 56, "x" * 56 + ",", "x" * 56 + ",auto,auto", ""])
def test_a_bad_ack_is_refused(http, queue, ack):
    """A 400 that says what is allowed; no job is taken."""
    http.post(f"/queues/{queue}/jobs", json=1)
    answer = http.get(f"/queues/{queue}/next", params={"ack": ack})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-parameter")
    assert http.post(f"/queues/{queue}/leases", json={"ack": ack}).json()["code"] == "invalid-body"
    assert backlog(http, queue) == 1


def test_an_ack_that_fails_takes_no_job(http, queue):
    """`LEASE,auto` with a lease that does not exist is its 404."""
    http.post(f"/queues/{queue}/jobs", json=1)
    answer = http.get(f"/queues/{queue}/next", params={"ack": "x" * 56 + ",auto"})
    assert (answer.status_code, answer.json()["code"]) == (404, "lease-not-found")
    assert backlog(http, queue) == 1


def test_a_client_that_leaves_while_it_waits_takes_no_job(gateway, http, queue):
    """Many times: the job that comes afterwards is still there."""
    for number in range(examples(30, fewest=12)):
        connection = gateway.connect()
        connection.sendall(f"GET /queues/{queue}/next?ack=auto&timeout=30 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        if number % 2:
            until(lambda: waiters(http, queue) >= 1)
        connection.close()
        http.post(f"/queues/{queue}/jobs", json=number)
        answer = http.get(f"/queues/{queue}/next?timeout=5&ack=auto")
        assert (answer.status_code, answer.json()["data"]) == (200, number)


class Taken:
    """What consumers got, one job or many at once: the ids, and how many requests ended without an answer."""

    def __init__(self) -> None:
        self.jobs: list[str] = []
        self.unclear = 0
        self.lock = threading.Lock()

    def note(self, answer: httpx.Response) -> None:
        with self.lock:
            if answer.status_code == 200:
                taken = answer.json()
                self.jobs += [job["id"] for job in taken.get("jobs", [taken])]
            else:
                self.unclear += answer.status_code == 502


def consume(gateway: Running, taken: Taken, stop: threading.Event) -> None:
    while not stop.is_set():
        with gateway.client() as http:
            try:
                while not stop.is_set():
                    answer = http.get("/queues/q/next?timeout=0.2&ack=auto")
                    taken.note(answer)
                    if answer.status_code == 503:
                        stop.wait(0.02)  # the broker starts
            except httpx.ConnectError:
                stop.wait(0.02)  # nothing was sent
            except httpx.TransportError:
                with taken.lock:
                    taken.unclear += 1


def kill_some(gateway: Running, chance: random.Random, which: str) -> None:
    """Ends one process, as a crash would: a worker, the broker, or all of them, which start again."""
    children = children_of(gateway.process.pid)
    chosen = [pid for pid, command in children.items() if which in command]
    if which == "all" or not chosen:
        gateway.kill()
        gateway.start()
        return
    os.kill(chance.choice(chosen), signal.SIGKILL)
    until(gateway.ready)


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_no_job_is_delivered_twice_under_kills(tmp_path, kills):
    """Workers, broker and everything die at random moments: each job comes at most once. A job is missing only where
    a request ended without an answer."""
    chance = random.Random(kills)
    taken, stop = Taken(), threading.Event()
    with running(tmp_path / "data", "--workers", "2") as gateway:
        with gateway.client() as http:
            sent = []
            for _ in range(4 * kills):
                results = http.post("/queues/q/jobs/batch", json={"jobs": [{"data": 1}] * 50}).json()["results"]
                sent += [each["id"] for each in results]
        with ThreadPoolExecutor(6) as pool:
            work = [pool.submit(consume, gateway, taken, stop) for _ in range(6)]
            try:
                for number in range(kills):
                    stop.wait(chance.uniform(0.05, 0.3))
                    kill_some(gateway, chance, ("worker", "broker", "all")[number % 3])
            finally:
                stop.set()
            for each in work:
                each.result(30)
        until(gateway.ready)
        with gateway.client() as http:
            while backlog(http, "q"):
                taken.note(http.post("/queues/q/leases", json={"max": 100, "timeout": 0.5, "ack": "auto"}))
    assert len(set(taken.jobs)) == len(taken.jobs), "a job was delivered twice"
    assert set(taken.jobs) <= set(sent)
    missing = len(sent) - len(taken.jobs)
    assert 0 <= missing <= taken.unclear
    assert len(taken.jobs) > len(sent) / 2
    print(f"{kills} kills: {len(sent)} jobs, {missing} lost, {taken.unclear} requests without an answer")
