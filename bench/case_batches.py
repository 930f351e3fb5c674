"""CPU of the gateway and its broker for each job: in batches, and one by one."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from typing import TypeAlias

from bench.plan import Run
from bench.servers import MeasuredServer, cpu_s, gateway
from bench.table import Section, against, middle

BATCH = 100
SINGLES = 300
JOBS = 5_000
TARGET = 10.0
"""Percent of the CPU of `next` and ack, for a job of a full batch."""
Consume: TypeAlias = Callable[[http.client.HTTPConnection, str], int]


def measure(run: Run) -> Section:
    """The table: rounds of each way to consume, in turns, on one gateway with fsync on."""
    used: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    with gateway(run.plan.directory / "batches", "--log-level", "warning") as server:
        for number in range(run.plan.rounds):
            run.say(f"batches, round {number + 1}")
            for way, (name, (consume, count)) in enumerate(WAYS.items()):
                used[name].append(_round(server, f"way{way}-{number}", consume, count))
    single_us = middle([cpu_us for cpu_us, _ in used[SINGLE]])
    rows = []
    for name, rounds in used.items():
        cpu_us, jobs_s = middle([each[0] for each in rounds]), middle([each[1] for each in rounds])
        percent = 100 * cpu_us / single_us
        rows.append(
            (
                name,
                f"{cpu_us:.1f}",
                f"{jobs_s:,.0f}",
                f"{percent:.1f}",
                against(percent, TARGET, " %") if name == FULL else "",
            )
        )
    return Section(
        "Batches (one worker, embedded broker, fsync on, one connection)",
        ("way", "CPU us a job", "jobs/s", "% of single", "target"),
        rows,
        "CPU: of the worker and the broker, without the consumer. Medians of the rounds.",
    )


def _round(server: MeasuredServer, queue: str, consume: Consume, count: int) -> tuple[float, float]:
    """CPU in microseconds for each job, and jobs a second."""
    host, port = server.address.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    for _ in range(0, count, 100):
        body = json.dumps({"jobs": [{"data": {"to": "ada@example.org", "template": "welcome"}}] * 100})
        _ask(connection, "POST", f"/queues/{queue}/jobs/batch", body)
    before_s, began_s = _cpu_s(server), time.perf_counter()
    done = consume(connection, queue)
    took_s = time.perf_counter() - began_s
    used_s = _cpu_s(server) - before_s
    connection.close()
    if done != count:
        raise RuntimeError(f"{done} of {count} jobs came")
    return used_s / count * 1e6, count / took_s


def _cpu_s(server: MeasuredServer) -> float:
    return cpu_s(server.pid) + cpu_s(server.broker)


def _ask(connection: http.client.HTTPConnection, method: str, path: str, body: str = "") -> tuple[str, bytes]:
    """The lease of the answer, and its body."""
    connection.request(method, path, body or None, {"Content-Type": "application/json"} if body else {})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status >= 400:
        raise RuntimeError(content.decode())
    return answer.headers.get("Lease-Id", ""), content


def _one_by_one(connection: http.client.HTTPConnection, queue: str) -> int:
    done = 0
    while lease := _ask(connection, "GET", f"/queues/{queue}/next?timeout=0")[0]:
        _ask(connection, "POST", f"/leases/{lease}/ack")
        done += 1
    return done


def _chained(connection: http.client.HTTPConnection, queue: str) -> int:
    done, ack = 0, ""
    while lease := _ask(connection, "GET", f"/queues/{queue}/next?timeout=0{ack}")[0]:
        ack = f"&ack={lease}"
        done += 1
    return done


def _in_batches(connection: http.client.HTTPConnection, queue: str) -> int:
    done, ack = 0, ""
    while True:
        lease, body = _ask(connection, "GET", f"/queues/{queue}/next?max={BATCH}&timeout=0{ack}")
        if not lease:
            return done
        ack = f"&ack={lease}"
        done += len(json.loads(body)["jobs"])


SINGLE = "next and ack"
FULL = f"batches of {BATCH} with ack="
WAYS: dict[str, tuple[Consume, int]] = {
    SINGLE: (_one_by_one, SINGLES),
    "next with ack=": (_chained, SINGLES),
    FULL: (_in_batches, JOBS),
}
