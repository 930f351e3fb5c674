"""SIGTERM to a gateway at work: what it still serves, what it refuses, and how it ends."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.lab import ledger, plain
from tests.lab.broker import BrokerProcess
from tests.lab.examples import examples, some
from tests.lab.gateway import Running
from tests.lab.processes import group_lives
from tests.lab.waiting import until

FLAGS = ("--log-level", "info", "--grace", "60")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts gateways, each on a directory of its own, and ends what is left of them."""
    started: list[Running] = []

    def go(*flags: str) -> Running:
        started.append(Running(tmp_path / f"data{len(started)}", *FLAGS, *flags))
        return started[-1]

    yield go
    try:
        for each in started:
            ledger.check(each)
    finally:
        for each in started:
            each.kill()


def leased(http: httpx.Client, **params: float) -> str:
    """A new job under a lease: the lease's path."""
    http.post("/queues/work/jobs", json="x")
    answer = http.get("/queues/work/next", params={"timeout": 5, **params})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["lease"]["url"])


def left(gateway: Running) -> list[bytes]:
    """The jobs on the queue that the next start of the broker finds; the gateway has ended."""
    with BrokerProcess(gateway.data, "--fsync", "off") as broker:
        return list(broker.client().take_all("work"))


def drain(gateway: Running) -> None:
    """Tells the gateway to end and returns when every worker knows."""
    gateway.process.send_signal(signal.SIGTERM)
    until(lambda: plain.get(gateway.url + "/readyz", timeout=5).status_code == 503)


def accepts(gateway: Running) -> bool:
    """Whether a connection can be made."""
    try:
        socket.create_connection(("127.0.0.1", gateway.port), 10).close()
    except ConnectionError:
        return False
    return True


def gone_in_s(gateway: Running, since_s: float) -> float:
    """Waits until no process of it is left, for a quarter of the grace at most; exit code 0; how long that took."""
    assert gateway.process.wait(15) == 0, gateway.log.read_text()
    while group_lives(gateway.process.pid):
        assert time.monotonic() - since_s < 15
        time.sleep(0.005)
    return time.monotonic() - since_s


@pytest.mark.parametrize("workers", some(["2", "1"]))
def test_leases_are_settled_while_it_drains(start: Callable[..., Running], workers: str) -> None:
    """Not ready, no new lease, all settlements served through any worker; it ends with the last lease."""
    gateway = start("--workers", workers)
    with gateway.client() as http:
        paths = [leased(http) for _ in range(8)]
        drain(gateway)
        refused = plain.get(gateway.url + "/queues/work/next?timeout=1")
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert refused.headers["connection"] == "close"
        assert plain.post(gateway.url + paths[0] + "/extend", json={"lease": 30}).status_code == 200
        assert plain.post(gateway.url + paths[0] + "/nack", json={"position": "head"}).status_code == 204
        for path in paths[1:]:
            assert gateway.process.poll() is None
            assert plain.post(gateway.url + path + "/ack").status_code == 204
        acked = time.monotonic()
    gone_in_s(gateway, acked)
    assert len(left(gateway)) == 1


@pytest.mark.parametrize("workers", some(["2", "1"]))
def test_the_grace_ends_and_held_jobs_go_back(start: Callable[..., Running], workers: str) -> None:
    """A consumer that does not settle holds it up for the grace and no longer; the job is at the head again."""
    gateway = start("--workers", workers, "--grace", "1")
    with gateway.client() as http:
        leased(http, lease=600)
        began = time.monotonic()
        drain(gateway)
        took_s = gone_in_s(gateway, began)
    assert took_s > 0.9, "it did not wait; without the grace it would wait ten minutes"
    assert len(left(gateway)) == 1


def test_a_delayed_nack_is_not_waited_for(start: Callable[..., Running]) -> None:
    """No client holds its job: the gateway ends at once, and the job is on a holding queue at the next start."""
    gateway = start("--workers", "2")
    with gateway.client() as http:
        paths = [leased(http) for _ in range(4)]
        began = time.monotonic()
        drain(gateway)
        for path in paths:
            assert plain.post(gateway.url + path + "/nack", json={"delay": 600}).status_code == 200
    gone_in_s(gateway, began)
    with BrokerProcess(gateway.data, "--fsync", "off") as broker:
        stats = broker.client().stats()
    delayed = {name: count for name, count in stats.items() if re.search(r"__delay-\d+_items$", name)}
    assert sum(map(int, delayed.values())) == 4, delayed


@pytest.mark.parametrize(("workers", "number"), some([("2", signal.SIGINT), ("1", signal.SIGTERM)]))
def test_a_second_signal_ends_it_at_once(start: Callable[..., Running], workers: str, number: signal.Signals) -> None:
    """Open leases do not count any more; their jobs go back, exit code 0."""
    gateway = start("--workers", workers)
    with gateway.client() as http:
        leased(http, lease=600)
        drain(gateway)
        began = time.monotonic()
        gateway.process.send_signal(number)
        gone_in_s(gateway, began)
    assert len(left(gateway)) == 1


def test_ctrl_c_with_no_lease_ends_at_once(start: Callable[..., Running]) -> None:
    """The gateway ends at once if no client holds a job, however long the grace is."""
    gateway = start()
    with gateway.client() as http:
        http.post(leased(http) + "/ack")
        began = time.monotonic()
        gateway.process.send_signal(signal.SIGINT)
        gone_in_s(gateway, began)


@pytest.mark.alone
@pytest.mark.parametrize(("workers", "count"), [("1", 1000), ("2", examples(1000))])
def test_a_thousand_parked_polls_are_answered(start: Callable[..., Running], workers: str, count: int) -> None:
    """Each gets its 204 that closes, all within 300 ms of the signal on an idle machine."""
    gateway = start("--workers", workers, "--log-level", "warning")
    polls = []
    for _ in range(count):
        polls.append(gateway.connect())
        polls[-1].sendall(b"GET /queues/work/next?timeout=45 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    for _ in range(20):  # all that was sent before is read
        assert gateway.ready()
    began = time.monotonic()
    gateway.process.send_signal(signal.SIGTERM)
    for poll in polls:
        poll.settimeout(5)
        answer = poll.recv(4096)
        assert answer.startswith(b"HTTP/1.1 204 "), answer
        assert b"connection: close\r\n" in answer.lower()
    took_s = time.monotonic() - began
    assert took_s < 1, "more than three times what it should take, on a machine that is busy otherwise"
    gone_in_s(gateway, began)


def test_enqueues_under_way_finish(start: Callable[..., Running]) -> None:
    """A job whose last byte comes after the signal is stored and answered; one that never comes holds up nothing."""
    gateway = start()
    head = b"POST /queues/work/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n"
    with (
        socket.create_connection(("127.0.0.1", gateway.port), 10) as slow,
        socket.create_connection(("127.0.0.1", gateway.port), 10) as never,
        gateway.client() as http,
    ):
        path = leased(http, lease=600)
        slow.sendall(head + b"abc")
        never.sendall(head + b"abc")
        assert gateway.ready()
        began = time.monotonic()
        drain(gateway)
        slow.sendall(b"d")
        answer = slow.recv(65536)
        assert answer.startswith(b"HTTP/1.1 201 ")
        assert b"connection: close" in answer.lower()
        assert plain.post(gateway.url + path + "/ack").status_code == 204
        gone_in_s(gateway, began)
    (job,) = left(gateway)
    assert base64.b64encode(b"abcd") in job


def test_an_enqueue_under_way_outlives_the_port(start: Callable[..., Running]) -> None:
    """Nobody can connect any more, and a job whose last byte is still to come is stored and answered."""
    gateway = start("--workers", "2")
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as slow:
        slow.sendall(b"POST /queues/work/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nabc")
        for _ in range(10):  # both have read what was sent to them
            assert gateway.ready()
        began = time.monotonic()
        gateway.process.send_signal(signal.SIGTERM)
        until(lambda: not accepts(gateway))
        time.sleep(0.1)  # a client that is slow: it has 0.8 s
        slow.sendall(b"d")
        assert slow.recv(65536).startswith(b"HTTP/1.1 201 ")
    gone_in_s(gateway, began)
    assert "error" not in gateway.log.read_text()
    (job,) = left(gateway)
    assert base64.b64encode(b"abcd") in job


def test_a_worker_that_dies_in_the_drain_ends_it_no_later(start: Callable[..., Running]) -> None:
    """Its leases are gone with it: the others need not wait for it, and it is not started again."""
    gateway = start("--workers", "2")
    with gateway.client() as http:
        leased(http, lease=600)
        drain(gateway)
        began = time.monotonic()
        for pid in workers_of(gateway):
            with contextlib.suppress(ProcessLookupError):  # the one without the lease ends by itself
                os.kill(pid, signal.SIGKILL)
        gone_in_s(gateway, began)


def workers_of(gateway: Running) -> list[int]:
    """The pids of its workers."""
    children = Path(f"/proc/{gateway.process.pid}/task/{gateway.process.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"process.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
