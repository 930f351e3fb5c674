"""--max-lease-bytes: a job that does not fit stays on its queue; the embedded broker serves who waits when it fits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.lab import plain
from tests.lab.broker import BrokerProcess
from tests.lab.gateway import Running, running

LIMIT = 1 << 16
JOB = b"x" * 20_000
"""On Kestrel a third more: two fit, three do not."""


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("embedded") / "data", "--max-lease-bytes", str(LIMIT)) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def before_kestrel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("kestrel")
    with BrokerProcess(folder / "server") as server:
        flags = ("--max-lease-bytes", str(LIMIT), "--kestrel", server.address)
        with running(folder / "data", *flags) as gateway:
            yield gateway


def put(http: httpx.Client, queue: str, *bodies: bytes) -> None:
    for body in bodies:
        assert http.post(f"/queues/{queue}/jobs", content=body).status_code == 201


def take(http: httpx.Client, queue: str, timeout: float = 0) -> httpx.Response:
    return http.get(f"/queues/{queue}/next?timeout={timeout}&format=raw", timeout=30)


def ack(http: httpx.Client, answer: httpx.Response) -> None:
    assert http.post(f"/leases/{answer.headers['lease-id']}/ack").status_code == 204


def parked(http: httpx.Client, queue: str) -> None:
    """Returns when a poll of the queue waits on the broker."""
    ends_s = time.monotonic() + 60
    while http.get(f"/queues/{queue}?missing=zero").json()["waiters"] != 1:
        assert time.monotonic() < ends_s
        time.sleep(0.02)


@pytest.mark.parametrize("kind", ["embedded", "before_kestrel"])
def test_a_job_without_room_stays_on_its_queue(kind, request):
    """503 with Retry-After; after an ack the same job comes, as its first attempt."""
    gateway = request.getfixturevalue(kind)
    with plain.client(base_url=gateway.url) as http:
        put(http, "stays", *[JOB + str(number).encode() for number in range(3)])
        held = [take(http, "stays"), take(http, "stays")]
        for timeout in (0, 0.2):
            refused = take(http, "stays", timeout)
            assert (refused.status_code, refused.json()["code"]) == (503, "too-many-leases")
            assert int(refused.headers["retry-after"]) >= 1
        for each in held:
            ack(http, each)
        last = take(http, "stays")
        assert (last.content, last.headers["ce-attempt"]) == (JOB + b"2", "1")
        ack(http, last)
        assert take(http, "stays").status_code == 204


def test_a_waiting_poll_gets_the_job_when_there_is_room(embedded):
    """It waited on an empty queue; the job that comes does not fit until a lease has ended."""
    with plain.client(base_url=embedded.url) as http, ThreadPoolExecutor(1) as threads:
        put(http, "first", JOB, JOB)
        held = [take(http, "first"), take(http, "first")]
        waiting = threads.submit(take, http, "parked", 20)
        parked(http, "parked")
        put(http, "parked", JOB)
        assert http.get("/queues/parked").json()["items"] == 1
        assert not waiting.done()
        ack(http, held[0])
        found = waiting.result(10)
        assert (found.status_code, found.headers["ce-attempt"]) == (200, "1")
        ack(http, found)
        ack(http, held[1])


def test_a_waiting_poll_without_room_ends_at_its_time(embedded):
    """With the 503, because its queue is not empty; the job stays."""
    with plain.client(base_url=embedded.url) as http, ThreadPoolExecutor(1) as threads:
        put(http, "second", JOB, JOB)
        held = [take(http, "second"), take(http, "second")]
        waiting = threads.submit(take, http, "ends", 1.5)
        parked(http, "ends")
        put(http, "ends", JOB)
        ended = waiting.result(10)
        assert (ended.status_code, ended.json()["code"]) == (503, "too-many-leases")
        for each in held:
            ack(http, each)
        ack(http, take(http, "ends", 5))
