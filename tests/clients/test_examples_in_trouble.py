"""The example clients of all languages side by side, while jobs fail, leases end and the gateway dies."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.clients.conftest import Run
from tests.clients.languages import LANGUAGES, Language, Program
from tests.clients.looking import await_figures, lines
from tests.lab.gateway import Running, running
from tests.leases.cluster import clustered
from tests.proxies.proxy import proxied, shown

JOBS = 20
LIMIT_S = 40


@pytest.fixture
def languages(built: Callable[[Language], Path]) -> list[Language]:
    """Every language that is installed. In CI all are: test_examples.py fails where one is missing."""
    found = [each for each in LANGUAGES if not each.missing()]
    for each in found:
        built(each)
    return found


def deliveries(consumer: Program, key: str) -> list[object]:
    """That member of each job that the consumer has finished."""
    return [json.loads(line)[key] for line in list(consumer.output)]


def taken_ids(consumer: Program) -> set[str]:
    """The ids of the jobs that the consumer says it took."""
    return {match[1] for line in consumer.errors if (match := re.search(r"([0-9a-f]{32}): attempt ", line))}


def await_all(consumer: Program, expected: set[int]) -> None:
    """Returns when the consumer has finished these jobs."""
    deadline_s = time.monotonic() + LIMIT_S
    while set(deliveries(consumer, "n")) != expected:
        assert time.monotonic() < deadline_s, consumer
        time.sleep(0.02)


@pytest.mark.slow
def test_the_gateway_dies_and_comes_back(languages: list[Language], run: Run, tmp_path: Path) -> None:
    """Killed while jobs pass: no job is lost, no client ends, and a job that comes twice comes under one id."""
    with running(tmp_path / "data") as gateway, gateway.client() as http:
        producers = [run(each, "producer", gateway.url, each.name) for each in languages]
        consumers = [run(each, "consumer", gateway.url, each.name) for each in languages]
        jobs = lines(*({"to": "ada@example.org", "n": n, "seconds": 0.05} for n in range(JOBS)))
        for producer in producers:
            producer.feed(*jobs[: JOBS // 2])
        for consumer in consumers:
            consumer.await_output(3)
        gateway.kill()
        for producer in producers:
            producer.feed(*jobs[JOBS // 2 :])
        for program in producers + consumers:
            program.await_error("no-answer")
        gateway.start()
        for producer in producers:
            assert producer.end() == 0, producer
            assert len(set(producer.output)) == JOBS, producer
        for consumer in consumers:
            await_all(consumer, set(range(JOBS)))
        for each, producer, consumer in zip(languages, producers, consumers, strict=True):
            await_figures(http, each.name, items=0, open_reads=0)
            assert consumer.terminate_and_end()[0] == 0, consumer
            # Twice may come the job in hand, and the one whose enqueue was under way; each under the id that it has.
            assert len(consumer.output) <= JOBS + 2, consumer
            assert taken_ids(consumer) == set(producer.output), f"{producer}\n{consumer}"


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Running]:
    """A gateway that tries each job twice."""
    (tmp_path / "queues.toml").write_text('[queues."*"]\nmax_attempts = 2\n')
    with running(tmp_path / "data", "--queues", str(tmp_path / "queues.toml")) as gateway:
        yield gateway


@pytest.mark.slow
def test_jobs_fail_take_long_and_vanish(languages: list[Language], run: Run, strict: Running) -> None:
    """A job that fails is tried later and then a dead letter with its reason; one that takes twice its lease is done
    once; one whose lease ends is given up, and the consumer goes on."""
    with strict.client() as http:
        consumers = [run(each, "consumer", strict.url, each.name, LEASE_SECONDS="2") for each in languages]
        for each in languages:
            for job in ({"subject": "no address"}, {"to": "slow", "seconds": 4}, {"to": "last"}):
                assert http.post(f"/queues/{each.name}/jobs", json=job).status_code == 201
        for each, consumer in zip(languages, consumers, strict=True):
            consumer.await_output(2)
            await_dead_letter(http, each.name)
            assert deliveries(consumer, "to") == ["slow", "last"], consumer
            assert not any("not settled" in line for line in consumer.errors), consumer
            dead = http.get(f"/queues/{each.name}/dead-letters/peek").json()
            assert dead["data"] == {"subject": "no address"}
            assert "the mail has no address" in dead["attributes"]["lasterror"]
            assert dead["attributes"]["deadattempts"] == 2

        for each in languages:
            assert http.post(f"/queues/{each.name}/jobs", json={"to": "gone", "seconds": 1.5}).status_code == 201
        for each in languages:
            await_figures(http, each.name, open_reads=1)
            assert http.delete(f"/queues/{each.name}").json()["leases_ended"] == 1
        for each, consumer in zip(languages, consumers, strict=True):
            consumer.await_error("not settled: .*queue-deleted")
            assert http.post(f"/queues/{each.name}/jobs", json={"to": "after"}).status_code == 201
            assert consumer.await_output(4)
            assert deliveries(consumer, "to")[2:] == ["gone", "after"], consumer
            assert consumer.terminate_and_end()[0] == 0, consumer


def await_dead_letter(http: httpx.Client, queue: str) -> None:
    """Returns when the queue has a dead letter."""
    deadline_s = time.monotonic() + LIMIT_S
    while http.get(f"/queues/{queue}/dead-letters").json()["items"] != 1:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest.mark.slow
def test_two_replicas_behind_nginx_lose_no_job(languages: list[Language], run: Run, tmp_path: Path) -> None:
    """One replica is killed, then the other one stopped, while jobs pass through nginx: each job is finished."""
    with clustered(tmp_path) as cluster:
        first, second = cluster.start(), cluster.start()
        # max_fails=0: nginx tries a replica again at once, not after ten seconds.
        both = "\n".join(f"server 127.0.0.1:{each.port} max_fails=0;" for each in (first, second))
        block = shown("nginx").replace("server 127.0.0.1:8080;", both)
        with proxied(tmp_path / "nginx", "nginx", first.port, block) as nginx, second.client() as http:
            url = f"http://127.0.0.1:{nginx.port}"
            producers = [run(each, "producer", url, each.name) for each in languages]
            consumers = [run(each, "consumer", url, each.name) for each in languages]
            jobs = lines(*({"to": "ada@example.org", "n": n, "seconds": 0.05} for n in range(JOBS)))
            for producer in producers:
                producer.feed(*jobs[: JOBS // 2])
            for consumer in consumers:
                consumer.await_output(3)
            first.kill()
            for producer in producers:
                producer.feed(*jobs[JOBS // 2 : -5])
            for consumer in consumers:
                consumer.await_output(JOBS // 2)
            first.start()
            assert second.stop() == 0
            for producer in producers:
                producer.feed(*jobs[-5:])
                assert producer.end() == 0, producer
                assert len(set(producer.output)) == JOBS, producer
            second.start()
            for consumer in consumers:
                await_all(consumer, set(range(JOBS)))
            for each, consumer in zip(languages, consumers, strict=True):
                await_figures(http, each.name, items=0, open_reads=0)
                assert consumer.terminate_and_end()[0] == 0, consumer
                # In hand when its replica was killed; or stored twice, since replicas do not share Idempotency-Keys.
                assert len(consumer.output) <= JOBS + 2, consumer
