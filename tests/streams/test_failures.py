"""Streams while something is killed, under uvicorn, and with Kestrel servers."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.lab.broker import BrokerProcess
from tests.lab.examples import some
from tests.lab.gateway import running
from tests.lab.processes import children_of
from tests.lab.waiting import until
from tests.streams.reader import StreamReader
from tests.streams.test_stream import put, take

ROUNDS = int(os.environ.get("KESTREL_GATEWAY_TEST_STREAM_KILLS", "5"))
CUT = (OSError, EOFError, http.client.HTTPException, ValueError)
"""What a reader sees when a stream is cut off; ValueError: in the middle of a line."""


def test_jobs_on_kestrel_servers_are_back_in_order(tmp_path):
    """A connection for each lease: the last one taken goes back first."""
    with (
        BrokerProcess(tmp_path / "broker") as broker,
        running(tmp_path / "data", "--kestrel", broker.address) as gateway,
        gateway.client() as client,
    ):
        put(client, "q", *range(12))
        with StreamReader(gateway, "/queues/q/stream?window=10") as stream:
            stream.next("open")
            held = stream.jobs(10)
            assert [job["data"] for job in held] == list(range(10))
            ids = [job["lease"]["id"] for job in held]
            assert client.post("/leases/settle", json={"acks": [ids[7], ids[2]]}).status_code == 200
            assert [job["data"] for job in stream.jobs(2)] == [10, 11]
        until(lambda: client.get("/queues/q").json()["open_reads"] == 0)
        assert [take(client, "q")[0] for _ in range(10)] == [0, 1, 3, 4, 5, 6, 8, 9, 10, 11]


@pytest.mark.parametrize("server", some(["uvicorn", "own"]))  # other tests use the own one
def test_a_stream_through_another_server(tmp_path, monkeypatch, server):
    """The same lines under plain uvicorn; settled jobs free their slots, and the client's end gives the others back."""
    if server == "uvicorn":
        monkeypatch.setenv("KESTREL_GATEWAY_TEST_SERVER", "uvicorn")
    with running(tmp_path / "data", "--stream-keepalive", "0.1") as gateway, gateway.client() as client:
        put(client, "q", *range(4))
        with StreamReader(gateway, "/queues/q/stream?window=2", accept="text/event-stream") as stream:
            stream.next("open")
            job = stream.next()
            assert client.post(job["lease"]["url"] + "/ack").status_code == 204
            assert [each["data"] for each in stream.jobs(2)] == [1, 2]
            assert stream.next("keepalive")
        until(lambda: client.get("/queues/q").json()["open_reads"] == 0)
        assert [take(client, "q")[0] for _ in range(3)] == [1, 2, 3]


class Work:
    """Jobs that a stream gets, and those that are settled for certain or perhaps."""

    def __init__(self):
        self.got: Counter = Counter()
        self.acked: set = set()
        self.maybe: set = set()
        self.after_ack: list = []

    def consume(self, gateway, path, over, chance):
        """Streams again and again, and acks most of what comes, until it is told to stop."""
        while not over.is_set():
            with contextlib.suppress(*CUT), StreamReader(gateway, path) as stream:
                if stream.refused:
                    continue
                while not over.is_set():
                    line = stream.line()
                    if line["type"] == "end":
                        break
                    if line["type"] != "job":
                        continue
                    number = line["data"]
                    if number in self.acked:
                        self.after_ack.append(number)
                    self.got[number] += 1
                    # No other settlement copies a job: a kill between copy and confirm leaves two.
                    way = chance.choices(["ack", "nack", "leave"], [80, 10, 10])[0]
                    if way == "leave":
                        break  # the client goes with open leases
                    settled = settle(gateway, line["lease"]["id"], way)
                    if way == "ack":
                        self.maybe.add(number)
                        if settled:
                            self.acked.add(number)


def settle(gateway, lease_id, way):
    """Whether it is certain that it is settled."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        body = b'{"position":"head"}' if way == "nack" else None
        connection.request("POST", f"/leases/{lease_id}/{way}", body, {"Content-Type": "application/json"})
        return connection.getresponse().status == 204
    return False


def processes(gateway, name):
    """The process ids of the gateway's children whose command has that name."""
    found = []
    for pid in children_of(gateway.process.pid):
        with contextlib.suppress(OSError):
            if name in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("server", ["embedded", "memcache 1", "memcache 100"])
def test_kills_at_random_moments(tmp_path, server):
    """A worker, the broker, a Kestrel server or the client is killed: what is not settled comes again, no settled one.

    KESTREL_GATEWAY_TEST_STREAM_KILLS sets how often.
    """
    chance = random.Random(7)
    broker, flags = None, []
    if server != "embedded":
        reads = server.split()[1]
        broker = BrokerProcess(tmp_path / "broker", "--max-open-reads", reads)
        flags = ["--kestrel", broker.address, "--kestrel-open-reads", reads]
    work, over = Work(), threading.Event()
    try:
        with running(tmp_path / "data", "--workers", "2", *flags) as gateway:
            consumer = threading.Thread(
                target=work.consume,
                args=(gateway, "/queues/q/stream?window=5", over, random.Random(8)),
            )
            stored, serial = set(), 0
            consumer.start()
            for _ in range(ROUNDS):
                for _ in range(10):
                    serial += 1  # a job whose enqueue has no answer may be there, too
                    if enqueued(gateway, serial):
                        stored.add(serial)
                time.sleep(chance.random() * 0.2)
                victims = processes(gateway, b"worker")
                if broker is not None:
                    target = chance.choice([*victims, broker.process.pid])
                else:
                    target = chance.choice([*victims, *processes(gateway, b"broker")])
                with contextlib.suppress(ProcessLookupError):
                    os.kill(target, signal.SIGKILL)
                if broker is not None and target == broker.process.pid:
                    broker.process.wait(10)
                    broker.start()
                until(lambda: is_ready(gateway), within_s=30)
            until(lambda: work.maybe >= stored, within_s=60)
            until(lambda: backlog(gateway) == 0, within_s=60)
            over.set()
            put_anyway(gateway)
            consumer.join(60)
            assert not consumer.is_alive()
            assert not work.after_ack
            print(
                f"{server}: {ROUNDS} kills, {len(stored)} stored, {len(work.acked)} acked, {sum(work.got.values())} got"
            )
    finally:
        over.set()
        if broker is not None:
            broker.close()


def enqueued(gateway, number):
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("POST", "/queues/q/jobs", b"%d" % number, {"Content-Type": "application/json"})
        return connection.getresponse().status == 201
    return False


def is_ready(gateway):
    with contextlib.suppress(Exception):
        return gateway.ready()
    return False


def backlog(gateway):
    with contextlib.suppress(Exception), gateway.client() as client:
        answer = client.get("/queues/q")
        if answer.status_code == 200 and "queue-coverage" not in answer.headers:
            return answer.json()["backlog"]
    return -1


def put_anyway(gateway):
    """A last job wakes the consumer, so that it sees that it is to stop."""
    with gateway.client() as client:
        client.post("/queues/q/jobs", json=-1)
