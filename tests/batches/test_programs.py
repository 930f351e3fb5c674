"""Settle programs against a plain model: whatever is in a batch, each job ends as its consumer has said."""

import json
import os
import socket
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.lab.broker import BrokerProcess
from tests.lab.examples import examples
from tests.lab.gateway import Running, running
from tests.lab.waiting import until

EXAMPLES = int(os.environ.get("KESTREL_GATEWAY_TEST_PROGRAMS", examples(8, fewest=4)))
KINDS = ("job", "expired", "poison", "raw", "huge")
WAYS = ("ack", "nack", "head", "reject", "rest")


@dataclass
class World:
    """A gateway, and where items can be put without it."""

    gateway: Running
    address: str
    number: int = 0

    def put(self, queue: str, items: list[bytes]) -> None:
        host, _, port = self.address.rpartition(":")
        with socket.socket(socket.AF_INET if host else socket.AF_UNIX) as connection:
            connection.connect((host, int(port)) if host else self.address)
            for data in items:
                connection.sendall(b"set %b 0 0 %d\r\n%b\r\n" % (queue.encode(), len(data), data))
                assert connection.recv(100) == b"STORED\r\n"


@pytest.fixture(scope="module", params=["embedded", "memcache 100", "memcache 1"])
def world(request, tmp_path_factory):
    """The transports: open reads with ids, or in their order on one connection, or one for each connection."""
    folder = tmp_path_factory.mktemp("programs")
    flags = ("--max-attempts", "5")
    if request.param == "embedded":
        with running(folder / "data", *flags) as gateway:
            yield World(gateway, os.path.realpath(gateway.data / "run" / "broker.sock"))
        return
    limit = request.param.split()[1]
    with (
        BrokerProcess(folder / "broker", "--fsync", "off", "--max-open-reads", limit) as broker,
        running(folder / "data", "--kestrel", broker.address, "--kestrel-open-reads", "100", *flags) as gateway,
    ):
        yield World(gateway, broker.address)


def item(kind: str, number: int) -> bytes:
    """As the gateway stores it (docs/contract.md)."""
    if kind == "raw":
        return b"\xff raw %d" % number
    event = {
        "specversion": "1.0",
        "id": f"job-{number}",
        "source": "/queues/q",
        "type": "kestrel-gateway.job",
        "time": "2026-01-31T12:00:00Z",
        "datacontenttype": "application/json",
        "data": number if kind != "huge" else [number, "x" * 100_000],
    }
    if kind == "expired":
        event |= {"expires": "2026-01-31T12:00:01Z"}
    if kind == "poison":
        event |= {"attempt": 6}
    return json.dumps(event).encode()


def identity(job: dict) -> str:
    """What tells a job from the others: its id, or for a raw item its bytes."""
    return job["id"] or str(job.get("data_base64", job.get("data")))


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    database=None,
)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=9),
    ways=st.lists(st.sampled_from(WAYS), min_size=9, max_size=9),
    rest=st.sampled_from(["ack", "nack"]),
    checkpoint=st.integers(0, 9),
    vanishes=st.booleans(),
)
def test_settle_programs(world, kinds, ways, rest, checkpoint, vanishes):  # noqa: PLR0917 (drawn)
    """A checkpoint, then a settlement of each: what was acked is gone, the rest is back or a dead letter."""
    world.number += 1
    queue = f"p{world.number}"
    world.put(queue, [item(kind, number) for number, kind in enumerate(kinds)])
    left: Counter[str] = Counter()
    dead = sum(kind == "poison" for kind in kinds)
    seen = 0
    with world.gateway.client() as http:
        if vanishes:
            with world.gateway.connect() as connection:
                connection.sendall(f"GET /queues/{queue}/next?max=100&timeout=0 HTTP/1.1\r\nHost: l\r\n\r\n".encode())
        while backlog(http, queue):  # a poll of an empty queue waits
            if (answer := http.get(f"/queues/{queue}/next?max=100&timeout=1")).status_code != 200:
                break
            jobs, url = answer.json()["jobs"], answer.json()["lease"]["url"]
            if seen == 0:
                upto = min(checkpoint, len(jobs))
                if upto:
                    assert http.post(url + "/ack", json={"upto": upto}).status_code == 204
                wanted = {"acks": [], "nacks": [], "rejects": [], "rest": rest}
                for index in range(upto, len(jobs)):
                    way = ways[index % len(ways)]
                    if way in ("nack", "head"):
                        wanted["nacks"].append({"job": index} | ({"position": "head"} if way == "head" else {}))
                    elif way != "rest":
                        wanted[f"{way}s"].append({"job": index})
                    if way in ("nack", "head") or (way == "rest" and rest == "nack"):
                        left[identity(jobs[index])] += 1
                    dead += way == "reject"
                settled = http.post(url + "/settle", json=wanted)
                assert settled.status_code == 200, settled.text
                first = Counter(identity(job) for job in jobs)
                seen += 1
                others = Counter[str]()
                continue
            for job in jobs:
                if left[identity(job)]:
                    left[identity(job)] -= 1
                else:
                    others[identity(job)] += 1
            assert http.post(url + "/ack").status_code == 204
        visible = [number for number, kind in enumerate(kinds) if kind not in ("expired", "poison")]
        if seen:
            assert not +left, "a job that was given back did not come again"
            assert not first & others, "a settled job came again"
            assert (first + others).total() == len(visible)
        else:
            assert not visible
        until(lambda: dead_letters(http, queue) == dead)
        until(lambda: http.get(f"/queues/{queue}?missing=zero").json()["items"] == 0)


def backlog(http, queue: str) -> int:
    """How many jobs it has, waiting and leased."""
    return int(http.get(f"/queues/{queue}?missing=zero").json()["backlog"])


def dead_letters(http, queue: str) -> int:
    """How many the queue has."""
    return int(http.get(f"/queues/{queue}/dead-letters").json()["items"])
