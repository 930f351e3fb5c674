"""Batches with every kind of job in every position, against a plain model of a queue."""

from __future__ import annotations

import base64
import contextlib
import random
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from fuzz.items import EVENT
from tests.batches.test_batches import broker_socket
from tests.lab.broker import BrokerProcess
from tests.lab.gateway import running
from tests.lab.http import HttpClient

pytestmark = pytest.mark.usefixtures("ledger_balances")

MOST = 8
MOST_BYTES = 100_000
LAST_ATTEMPT = 25
KINDS = ("again", "expired", "poison", "raw", "huge", "odd")
SETTLED = {"ack": "acks", "nack": "nacks", "reject": "rejects"}


@dataclass
class Modelled:
    """A job. attempt: of its next delivery."""

    kind: str
    number: int
    item: bytes
    attempt: int = 1


def job(kind: str, number: int) -> Modelled:
    """As a memcache client may put it."""
    members = {
        "again": b',"attempt":2',
        "expired": b',"expires":"2020-01-01T00:00:00Z"',
        "poison": b',"attempt":26',
        "huge": b',"filling":"%b"' % (b"x" * 60_000),
        "odd": rb',"a\udc00":"\ud800","subject":"x\r\ny"',
    }
    item = EVENT % (members.get(kind, b"") + b',"data":%d' % number)
    item = item.replace(b'"id":"1"', b'"id":"job-%d"' % number)
    return Modelled(
        kind, number, b"\xff%d" % number if kind == "raw" else item, {"again": 2, "poison": 26}.get(kind, 1)
    )


def most_with(attempt: int) -> int:
    """How many jobs a batch may have with a job of that attempt; see docs/batches.md."""
    return 1 if attempt >= LAST_ATTEMPT else max(1, MOST // 4 ** (attempt - 1))


class ModelQueue:
    """What an answer should have. dead: how many dead letters there should be."""

    def __init__(self, jobs: Iterable[Modelled]) -> None:
        self.jobs = list(jobs)
        self.dead = 0

    def batch(self) -> list[Modelled]:
        found: list[Modelled] = []
        most, left = MOST, MOST_BYTES
        while self.jobs and not (found and (len(found) >= most or left <= 0)):
            each = self.jobs[0]
            if each.kind != "expired" and each.attempt <= LAST_ATTEMPT:
                most = min(most, most_with(each.attempt))
                if found and (len(found) >= most or len(each.item) > left):
                    break
                found.append(each)
                left -= len(each.item)
            else:
                self.dead += each.kind != "expired"
            self.jobs.pop(0)
        return found

    def settle(self, batch: list[Modelled], ways: list[str]) -> None:
        back = [each for each, way in zip(batch, ways, strict=True) if way == "nack"]
        for each in back:
            each.attempt += 1
        self.jobs[:0] = back
        self.dead += ways.count("reject")


def number_of(shown) -> int:
    if "data" in shown:
        return shown["data"]
    return int(re.findall(rb"\d+", base64.b64decode(shown["data_base64"]))[-1])


def put(address, queue, jobs):
    """Through memcache, so that each is on the queue byte for byte."""
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as connection:
        connection.connect(address)
        head = queue.encode()
        connection.sendall(b"".join(b"set %b 0 0 %d\r\n%b\r\n" % (head, len(each.item), each.item) for each in jobs))
        with connection.makefile("rb") as answers:
            assert [answers.readline() for _ in jobs] == [b"STORED\r\n"] * len(jobs)


def compositions(*, every: bool = True) -> list[list[Modelled]]:
    """Each kind in each position, and random ones; or some of them."""
    chosen = random.Random(14)
    positions = range(5) if every else (0, 3)
    made = [["plain"] * at + [kind] + ["plain"] * (4 - at) for kind in KINDS for at in positions]
    made += [chosen.choices(("plain", *KINDS), k=12) for _ in range(15 if every else 3)]
    return [[job(kind, number) for number, kind in enumerate(kinds)] for kinds in made]


def settle(http, answer, chosen, may_nack):
    """Settles each job of the batch at random; the way of each."""
    shown = answer["jobs"]
    ways = [chosen.choice(["ack", "nack", "reject"] if may_nack(each) else ["ack", "reject"]) for each in shown]
    wanted: dict[str, Any] = {
        name: [{"job": at} for at, each in enumerate(ways) if each == way] for way, name in SETTLED.items()
    }
    wanted["nacks"] = [each | {"position": "head"} for each in wanted["nacks"]]
    results = http.ask("POST", answer["lease"]["url"] + "/settle", wanted | {"rest": "ack"}).json()["results"]
    assert [each["status"] for each in results] == [204] * len(ways)
    return ways


@pytest.fixture
def http(gateway):
    """The small client: a test here asks hundreds of times."""
    with contextlib.closing(HttpClient(gateway.port, 30)) as client:
        yield client


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_embedded_broker(gateway, http, new_queue, every):
    """Each batch is the one of the model, and so is what becomes of each job."""
    chosen = random.Random(1)
    for jobs in compositions(every=every):
        queue, kinds = new_queue(), [each.kind for each in jobs]
        put(broker_socket(gateway), queue, jobs)
        model = ModelQueue(jobs)
        while expected := model.batch():
            path = f"/queues/{queue}/next?max={MOST}&max_bytes={MOST_BYTES}&timeout=5"
            answer = http.ask("GET", path).json()
            shown = [(number_of(each), each["attempt"]) for each in answer["jobs"]]
            assert shown == [(each.number, each.attempt) for each in expected], kinds
            model.settle(expected, settle(http, answer, chosen, lambda each: each["attempt"] < 4))
        assert http.ask("GET", f"/queues/{queue}/next?max=5&timeout=0").status == 204
        assert http.ask("GET", f"/queues/{queue}").json()["backlog"] == 0, kinds
        letters = http.ask("GET", f"/queues/{queue}/dead-letters").json()["items"]
        assert letters == model.dead, kinds


@pytest.mark.slow
def test_a_server_that_speaks_memcache(tmp_path, new_queue):
    """Jobs may come in another order. Each batch has its limits, and each job ends as it was settled."""
    chosen = random.Random(2)
    with (
        BrokerProcess(tmp_path / "broker", "--fsync", "off") as broker,
        running(tmp_path / "data", "--kestrel", broker.address, "--kestrel-open-reads", "100") as gateway,
        contextlib.closing(HttpClient(gateway.port, 30)) as http,
    ):
        host, port = broker.address.split(":")
        for jobs in compositions():
            queue, kinds = new_queue(), [each.kind for each in jobs]
            put((host, int(port)), queue, jobs)
            left = {each.number for each in jobs if each.kind not in ("expired", "poison")}
            rejected = kinds.count("poison")
            path = f"/queues/{queue}/next?max={MOST}&max_bytes={MOST_BYTES}&timeout=0.2"
            while (answer := http.ask("GET", path)).status == 200:
                shown = answer.json()["jobs"]
                numbers = [number_of(each) for each in shown]
                assert set(numbers) <= left, kinds
                assert len(numbers) == len(set(numbers)) <= min(most_with(each["attempt"]) for each in shown), kinds
                assert len(numbers) == 1 or sum(len(jobs[number].item) for number in numbers) <= MOST_BYTES, kinds
                ways = settle(http, answer.json(), chosen, lambda each: each["attempt"] < 3)
                rejected += ways.count("reject")
                left -= {number for number, way in zip(numbers, ways, strict=True) if way != "nack"}
            assert left == set(), kinds
            assert http.ask("GET", f"/queues/{queue}").json()["backlog"] == 0, kinds
            assert http.ask("GET", f"/queues/{queue}/dead-letters").json()["items"] == rejected, kinds
