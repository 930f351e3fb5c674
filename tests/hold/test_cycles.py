"""Requests, connections and polls leave no reference cycles of the gateway's objects.

Cycles are only freed by the garbage collector, which holds the loop while it looks at every object.
"""

import gc
import socket
import time
from collections import Counter

import pytest

from tests.hold.worker import Worker
from tests.lab.broker import BrokerProcess

MANY = 20
HOST = b" HTTP/1.1\r\nHost: localhost\r\n"
KEPT = {
    "probes": b"GET /livez" + HOST + b"\r\n",
    "refusals": b"GET /nothing" + HOST + b"\r\n",
    "enqueues": b"POST /queues/q/jobs" + HOST + b"Content-Length: 1\r\n\r\n1",
    "polls": b"GET /queues/p%d/next?timeout=0" + HOST + b"\r\n",
    "waits": b"GET /queues/w%d/next?timeout=0.02" + HOST + b"\r\n",
}
ENDED = {
    "connections": b"GET /livez" + HOST + b"\r\n",
    "malformed": b"GET /livez HTTP/1.1\r\nHost localhost\r\n\r\n",
    "foreign": b"GET /livez HTTP/1.1\r\nHost: elsewhere\r\n\r\n",
    "too-large": b"POST /queues/q/jobs" + HOST + b"Content-Length: 99999999\r\n\r\n1",
    "half": b"GET /livez HTTP/1.1\r\nHost: loc",
    "parked": b"GET /queues/l%d/next?timeout=30" + HOST + b"\r\n",
}


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    with BrokerProcess(tmp_path_factory.mktemp("broker") / "data", "--fsync", "off") as broker:
        started = Worker(tmp_path_factory.mktemp("worker"), f"127.0.0.1:{broker.port}", log_level="error")
        yield started
        started.close()


@pytest.fixture
def garbage(worker):
    """Looks what a function leaves for the collector: how many objects of which of the gateway's types."""

    def look(act):
        act(0)  # what is made once, by the first request of a kind, is not looked at
        time.sleep(0.3)
        gc.collect()
        gc.disable()
        try:
            for number in range(1, MANY + 1):
                act(number)
            time.sleep(0.3)  # longer than a queue without polls is kept
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            return Counter(
                type(each).__qualname__ for each in gc.garbage if type(each).__module__.startswith("gateway.")
            )
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()

    return look


def _numbered(request, number):
    return request.replace(b"%d", b"%d" % number)


@pytest.mark.parametrize("kind", KEPT)
def test_requests_on_a_connection_that_is_kept(worker, garbage, kind):
    """One after the other, each answered."""
    with socket.create_connection(("127.0.0.1", worker.port), 30) as connection:

        def act(number):
            connection.sendall(_numbered(KEPT[kind], number))
            assert connection.recv(65536).startswith(b"HTTP/1.1 ")

        assert not garbage(act)


def test_a_job_that_is_taken_and_acked(worker, garbage):
    """Its lease, too."""
    with worker.client() as http:

        def act(number):
            assert http.post("/queues/taken/jobs", json=number).status_code == 201
            lease = http.get("/queues/taken/next", params={"timeout": 5}).json()["lease"]["url"]
            assert http.post(f"{lease}/ack").status_code == 204

        assert not garbage(act)


@pytest.mark.parametrize("kind", ENDED)
def test_connections_that_end_leave_no_cycles(worker, garbage, kind):
    """By the client, before or after its answer, or by a refusal."""

    def act(number):
        with socket.create_connection(("127.0.0.1", worker.port), 30) as connection:
            connection.sendall(_numbered(ENDED[kind], number))
            if kind in {"half", "parked"}:
                time.sleep(0.02)
            else:
                assert connection.recv(65536).startswith(b"HTTP/1.1 ")

    assert not garbage(act)
