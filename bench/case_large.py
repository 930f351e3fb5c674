"""A small job's wait while items of 60 MiB go in and out of another queue without a pause."""

from __future__ import annotations

import http.client
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event

from bench.plan import Run
from bench.servers import BenchError, gateway
from bench.table import Section, against, percentile

LARGE_BYTES = 60 << 20
LIMIT = 3.0
"""Of the 99th percentile without large items."""
ROOM = ("--max-job-bytes", "67108864", "--max-batch-bytes", "67108864", "--log-level", "warning")
PAUSE_S = 0.005
QUEUES = '[queues.large]\nformat = "raw"\n'
"""Items are stored as they are, so their way is measured, and no envelope."""


def measure(run: Run) -> Section:
    """The table: an enqueue, next and ack of a small job, in turns with and without large items beside it."""
    alone: list[float] = []
    beside: list[float] = []
    rounds = 0
    policies = run.plan.directory / "large.toml"
    policies.write_text(QUEUES)
    with gateway(run.plan.directory / "large", *ROOM, "--queues", str(policies)) as server:
        host, _, port = server.address.rpartition(":")
        for number in range(run.plan.rounds):
            run.say(f"large items, round {number + 1} of {run.plan.rounds}")
            alone += _small_jobs(host, int(port), run.plan.large_s)
            with _large_items(host, int(port)) as moved:
                beside += _small_jobs(host, int(port), run.plan.large_s)
            rounds += moved.get()
    ratio = percentile(beside, 99) / percentile(alone, 99)
    return Section(
        "Large items (a small job's enqueue, next and ack, one at a time; fsync on)",
        ("beside it", "p50 ms", "p99 ms", "x alone", "target"),
        [
            ("nothing", f"{percentile(alone, 50) * 1000:.1f}", f"{percentile(alone, 99) * 1000:.1f}", "", ""),
            (
                "items of 60 MiB",
                f"{percentile(beside, 50) * 1000:.1f}",
                f"{percentile(beside, 99) * 1000:.1f}",
                f"{ratio:.2f}",
                against(ratio, LIMIT),
            ),
        ],
        f"x alone: of the 99th percentile. {rounds} items of 60 MiB were enqueued, delivered and acked meanwhile, by\n"
        "another process on another queue. The cores are shared, so a part of the wait is the other process' work.",
    )


def _small_jobs(host: str, port: int, for_s: float) -> list[float]:
    """How long each took, in seconds."""
    took_s = []
    ends_s = time.perf_counter() + for_s
    connection = http.client.HTTPConnection(host, port, timeout=120)
    while time.perf_counter() < ends_s:
        began_s = time.perf_counter()
        _pass_on(connection, "small", b"x" * 200)
        took_s.append(time.perf_counter() - began_s)
        time.sleep(PAUSE_S)
    connection.close()
    return took_s


def _pass_on(connection: http.client.HTTPConnection, queue: str, body: bytes) -> None:
    """Enqueues a job, takes it and acks it."""
    kind = {"Content-Type": "text/plain"}
    _ask(connection, "POST", f"/queues/{queue}/jobs", body, kind)
    connection.request("GET", f"/queues/{queue}/next?timeout=30&format=raw")
    response = connection.getresponse()
    found = response.read()
    if response.status != 200 or len(found) != len(body):
        raise BenchError(f"next answered {response.status} with {len(found)} bytes")
    _ask(connection, "POST", f"/leases/{response.headers['Lease-Id']}/ack", b"", {})


def _ask(connection: http.client.HTTPConnection, method: str, path: str, body: bytes, headers: dict[str, str]) -> None:
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    found = response.read()
    if response.status >= 300:
        raise BenchError(f"{method} {path} answered {response.status}: {found[:300]!r}")


@contextmanager
def _large_items(host: str, port: int) -> Iterator[SimpleQueue[int]]:
    """Large items, from a process of their own; afterwards the queue has their number."""
    spawn = multiprocessing.get_context("spawn")
    ends, begun, moved = spawn.Event(), spawn.Event(), spawn.SimpleQueue()
    process = spawn.Process(target=_pass_on_large, args=(host, port, begun, ends, moved), daemon=True)
    process.start()
    begun.wait(60)
    try:
        yield moved
    finally:
        ends.set()
        process.join(120)
    if process.exitcode != 0:
        raise BenchError(f"the process that moves large items ended with {process.exitcode}")


def _pass_on_large(host: str, port: int, begun: Event, ends: Event, moved: SimpleQueue[int]) -> None:
    connection = http.client.HTTPConnection(host, port, timeout=120)
    body = b"z" * LARGE_BYTES
    count = 0
    begun.set()
    while not ends.is_set() or not count:
        _pass_on(connection, "large", body)
        count += 1
    moved.put(count)
