"""CPU a job: a stream whose jobs are settled a hundred at a time, and next + ack of one job, in alternating rounds."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bench.plan import Run
from bench.servers import BenchError, MeasuredServer, cpu_s, fsync_ms, gateway
from bench.table import Section, against, middle
from tests.lab.http import AsyncHttp

SINGLE, STREAM = "next + ack (2 requests)", "stream, settled by 100"
STREAMS = 2
WINDOW = 400
SETTLED = 100
LIMIT = 0.5
"""Of the CPU of next + ack for each job."""


@dataclass(frozen=True, slots=True)
class JobCost:
    """One round, a job."""

    gateway_us: float
    broker_us: float
    per_s: float

    @property
    def sum_us(self) -> float:
        return self.gateway_us + self.broker_us


def measure(run: Run) -> Section:
    """The table of streams."""
    plan = run.plan
    ways: dict[str, Callable[[int, int, int], Awaitable[None]]] = {SINGLE: _single, STREAM: _stream}
    samples: dict[str, list[JobCost]] = {name: [] for name in ways}
    with gateway(plan.directory / "stream", "--log-level", "warning") as server:
        for number in range(plan.rounds + 1):
            run.say(f"streams, round {number} of {plan.rounds}")
            for name, way in ways.items():
                cost = asyncio.run(_round(server, way, plan.units, plan.connections))
                if number:  # the first one warms up
                    samples[name].append(cost)
    ratios = [mine.sum_us / single.sum_us for mine, single in zip(samples[STREAM], samples[SINGLE], strict=True)]
    return Section(
        f"Streams ({STREAMS} with a window of {WINDOW}; {plan.connections} connections for next + ack; fsync on)",
        ("way", "gateway us", "broker us", "jobs a second", "x next + ack", "target"),
        [
            (
                name,
                f"{middle([each.gateway_us for each in of_name]):.0f}",
                f"{middle([each.broker_us for each in of_name]):.0f}",
                f"{middle([each.per_s for each in of_name]):,.0f}",
                f"{middle(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})" if name == STREAM else "",
                against(middle(ratios), LIMIT) if name == STREAM else "",
            )
            for name, of_name in samples.items()
        ],
        "us: CPU microseconds of the serving process and of the broker, a job. x next + ack: both together, median"
        f"\n(least-most) of the rounds. One fsync of this disk, meanwhile: {fsync_ms(plan.directory):.2f} ms (median).",
    )


async def _round(
    server: MeasuredServer, way: Callable[[int, int, int], Awaitable[None]], jobs: int, connections: int
) -> JobCost:
    port = int(server.address.rpartition(":")[2])
    extra = STREAMS * WINDOW  # so that the last round trips have as much to take as the first
    await _fill(port, jobs + extra)
    gateway_s, broker_s, began_s = cpu_s(server.pid), cpu_s(server.broker), time.monotonic()
    await way(port, jobs, connections)
    took_s = time.monotonic() - began_s
    spent = [cpu_s(pid) - before_s for pid, before_s in ((server.pid, gateway_s), (server.broker, broker_s))]
    await _ask(AsyncHttp(port), "POST", "/queues/bench/flush", 204)
    return JobCost(spent[0] / jobs * 1e6, spent[1] / jobs * 1e6, jobs / took_s)


async def _fill(port: int, jobs: int) -> None:
    http = AsyncHttp(port)
    body = json.dumps({"jobs": [{"data": {"to": "ada@example.org", "text": "x" * 160}}] * 100}).encode()
    for _ in range(0, jobs, 100):
        await _ask(http, "POST", "/queues/bench/jobs/batch", 201, body)
    http.close()


async def _single(port: int, jobs: int, connections: int) -> None:
    left = iter(range(jobs))

    async def consume() -> None:
        http = AsyncHttp(port)
        for _ in left:
            job = await _ask(http, "GET", "/queues/bench/next?timeout=5", 200)
            await _ask(http, "POST", json.loads(job)["lease"]["url"] + "/ack", 204)
        http.close()

    await asyncio.gather(*(consume() for _ in range(connections)))


async def _stream(port: int, jobs: int, _connections: int) -> None:
    async def consume(count: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
        writer.write(b"GET /queues/bench/stream?window=%d HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n" % WINDOW)
        http, leases = AsyncHttp(port), list[str]()
        while count:
            line = await reader.readline()
            if not line:
                raise BenchError("a stream has ended")
            if line.startswith(b'{"type":"job"'):
                leases.append(json.loads(line)["lease"]["id"])
                if len(leases) == min(SETTLED, count):
                    await _ask(http, "POST", "/leases/settle", 200, json.dumps({"acks": leases}).encode())
                    count -= len(leases)
                    leases.clear()
        writer.close()
        http.close()

    await asyncio.gather(*(consume(jobs // STREAMS) for _ in range(STREAMS)))


async def _ask(http: AsyncHttp, method: str, path: str, wanted: int, body: bytes = b"") -> bytes:
    status, _, content = await http.ask(method, path, body, "Content-Type: application/json\r\n" if body else "")
    if status != wanted:
        raise BenchError(f"{method} {path}: {status} instead of {wanted}: {content[:200]!r}")
    return content
