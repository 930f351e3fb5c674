"""The promises, kept under kill -9: what was stored is delivered, what was acked stays away.

ROUNDS (environment: KESTREL_GATEWAY_TEST_KILL_ROUNDS) sets how many lives the gateway has; CI asks for fifty.
"""

import base64
import json
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.lab.examples import examples
from tests.lab.gateway import Running, running

ROUNDS = int(os.environ.get("KESTREL_GATEWAY_TEST_KILL_ROUNDS", "6"))
JOBS = int(os.environ.get("KESTREL_GATEWAY_TEST_JOBS", "10000"))


class RunHistory:
    """What was asked and answered: jobs known to be stored, acks that were sent, and those known to be done."""

    def __init__(self) -> None:
        self.stored: set[str] = set()
        self.sent: set[str] = set()
        self.acked: set[str] = set()
        self.returned: list[str] = []
        self.lock = threading.Lock()


def produce(gateway: Running, history: RunHistory, stop: threading.Event) -> None:
    with gateway.client() as http:
        while not stop.is_set():
            try:
                answer = http.post("/queues/q/jobs", json={"n": random.random()})
            except httpx.TransportError:
                return
            if answer.status_code == 201:
                with history.lock:
                    history.stored.add(answer.json()["id"])


def consume(gateway: Running, history: RunHistory, stop: threading.Event) -> None:
    with gateway.client() as http:
        while not stop.is_set():
            try:
                answer = http.get("/queues/q/next?timeout=0.2")
                if answer.status_code != 200:
                    continue
                job = answer.json()
                with history.lock:
                    if job["id"] in history.acked:
                        history.returned.append(job["id"])
                if random.random() < 0.7:
                    history.sent.add(job["id"])
                    if http.post(job["lease"]["url"] + "/ack").status_code == 204:
                        with history.lock:
                            history.acked.add(job["id"])
            except httpx.TransportError:
                return


@pytest.mark.parametrize("rounds", [2, pytest.param(ROUNDS, marks=pytest.mark.slow)])
def test_kill_9_of_everything_loses_and_repeats_nothing(tmp_path, rounds):
    """Gateway and broker are killed together at random moments; afterwards nothing is missing and nothing came back."""
    chance = random.Random(20261)
    history = RunHistory()
    with running(tmp_path / "data") as gateway:
        for _ in range(rounds):
            stop = threading.Event()
            with ThreadPoolExecutor(5) as pool:
                work = [pool.submit(produce, gateway, history, stop) for _ in range(2)]
                work += [pool.submit(consume, gateway, history, stop) for _ in range(3)]
                stop.wait(chance.uniform(0.05, 0.6))
                gateway.kill()
                stop.set()
                for each in work:
                    each.result(30)
            gateway.start()
        left = set()
        with gateway.client() as http:
            while (answer := http.get("/queues/q/next?timeout=0.5")).status_code == 200:
                left.add(answer.json()["id"])
                assert http.post(answer.json()["lease"]["url"] + "/ack").status_code == 204
    assert len(history.stored) > rounds
    assert history.acked
    assert not history.returned, "a job came back after its ack was answered"
    assert not left & history.acked, "a job came back after its ack was answered"
    assert not history.stored - history.sent - left, "a stored job is missing"


def body(number: int) -> tuple[bytes, str | None]:
    """The body and type of a job, of every kind in turn."""
    chance = random.Random(number)
    match number % 5:
        case 0:
            return json.dumps({"n": number, "text": 'é😀\\"\u2028' * chance.randrange(5)}).encode(), "application/json"
        case 1:
            return chance.randbytes(chance.randrange(300)), "application/octet-stream"
        case 2:
            return "".join(chance.choice("aé😀\r\n\0") for _ in range(50)).encode(), "text/plain; charset=utf-8"
        case 3:
            return b"", chance.choice([None, "text/plain", "image/png"])
    size = (1 << 20) if number % 500 == 4 else chance.randrange(5000)
    return chance.randbytes(size), None


@pytest.mark.parametrize("jobs", [examples(150), pytest.param(JOBS, marks=pytest.mark.slow)])
def test_jobs_come_back_unchanged_exactly_once(tmp_path, jobs):
    """Random bodies of every kind through HTTP: each is delivered once, byte for byte, and then the queue is empty."""
    sent: dict[str, int] = {}
    seen: list[str] = []

    def enqueue(numbers: range) -> None:
        with gateway.client() as http:
            for number in numbers:
                content, kind = body(number)
                headers = {"content-type": kind} if kind else {}
                answer = http.post("/queues/q/jobs", content=content, headers=headers)
                assert answer.status_code == 201, answer.text
                sent[answer.json()["id"]] = number

    def take() -> None:
        with gateway.client() as http:
            while (answer := http.get("/queues/q/next?timeout=2")).status_code == 200:
                job = answer.json()
                content, kind = body(sent_number(job["id"]))
                if kind == "application/json":
                    assert content in answer.content
                elif "data" in job and "json" not in job["content_type"]:
                    assert job["data"].encode() == content
                elif "data" in job:
                    assert content in answer.content
                else:
                    assert base64.b64decode(job["data_base64"]) == content
                assert kind in (None, job["content_type"])
                seen.append(job["id"])
                assert http.post(job["lease"]["url"] + "/ack").status_code == 204

    def sent_number(job_id: str) -> int:
        while job_id not in sent:
            stored.wait(0.001)
        return sent[job_id]

    stored = threading.Event()
    with running(tmp_path / "data") as gateway, ThreadPoolExecutor(8) as pool:
        work = [pool.submit(enqueue, range(each, jobs, 4)) for each in range(4)]
        work += [pool.submit(take) for _ in range(4)]
        for each in work:
            each.result(240)
        with gateway.client() as http:
            assert http.get("/queues/q").json()["items"] == 0
    assert len(seen) == jobs
    assert set(seen) == set(sent)
