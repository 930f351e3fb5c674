"""Deletes a subscription again and again while jobs are stored and polls wait, through two gateways with two workers.

    python -m tests.fanout.deletions --rounds 60 [--broker]

With `--broker` the server is the embedded broker, otherwise a stand-in with the races of a real Kestrel: a put that is
being copied, or a poll, creates the child again. Prints how many of the deletions are final.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.kestrel.standin import Manners, StandIn
from tests.lab.broker import BrokerProcess
from tests.lab.gateway import Running
from tests.lab.http import AsyncHttp

Has = Callable[[str], bool]

CHILDREN = 6
AFTER_S = 0.3
"""How long a deleted child is watched: polls of the other gateway come again, and puts that were under way end."""


@dataclass
class Outcome:
    """rounds: deletions. final: those whose child never came back. answers: of the load, by status."""

    rounds: int = 0
    final: int = 0
    lost_copies: int = 0
    answers: Counter[str] = field(default_factory=Counter)


@contextlib.asynccontextmanager
async def server(
    directory: Path, *, broker: bool
) -> AsyncIterator[tuple[str, Callable[[str], bool], Callable[[], int]]]:
    """Its address, whether it has a queue, and how many copies it has lost."""
    if not broker:
        async with StandIn(Manners(copying_s=0.003)) as standin:
            yield standin.address, lambda key: key in standin.queues, lambda: standin.lost_copies
        return
    process = await asyncio.to_thread(BrokerProcess, directory / "broker", "--fsync", "off")

    def has(key: str) -> bool:
        with contextlib.closing(process.client()) as client:
            client.send(b"dump_stats %s\r\n" % key.encode())
            return b"items=" in client.read_until(b"END\r\n")

    try:
        yield process.address, has, lambda: 0
    finally:
        process.close()


async def run(directory: Path, rounds: int, *, broker: bool, gateways: int = 2) -> Outcome:
    outcome = Outcome()
    async with server(directory, broker=broker) as (address, has, lost):
        flags = ("--kestrel", address, "--workers", "2")
        started = [
            await asyncio.to_thread(Running, directory / f"gateway{number}", *flags) for number in range(gateways)
        ]
        admin = AsyncHttp(started[0].port)
        try:
            for number in range(1, CHILDREN):
                await admin.ask("PUT", f"/queues/q/subscriptions/c{number}")
            loads = [
                asyncio.create_task(_load(gateway.port, outcome, produces=number % 3 == 0))
                for gateway in started
                for number in range(9)
            ]
            for _ in range(rounds):
                await _round(admin, outcome, has)
            for load in loads:
                load.cancel()
            await asyncio.gather(*loads, return_exceptions=True)
            outcome.lost_copies = lost()
        finally:
            admin.close()
            for gateway in started:
                await asyncio.to_thread(gateway.kill)
    return outcome


async def _round(admin: AsyncHttp, outcome: Outcome, has: Has) -> None:
    status, _, body = await admin.ask("PUT", "/queues/q/subscriptions/c0")
    assert status in (200, 201), (status, body)
    await asyncio.sleep(0.1)
    status, _, body = await admin.ask("DELETE", "/queues/q/subscriptions/c0")
    assert status == 200, (status, body)
    back = False
    until_s = asyncio.get_running_loop().time() + AFTER_S
    while asyncio.get_running_loop().time() < until_s:
        back = back or has("q+c0")
        await asyncio.sleep(0.01)
    outcome.rounds += 1
    outcome.final += not back


async def _load(port: int, outcome: Outcome, *, produces: bool) -> None:
    """Enqueues, or polls the subscription and acks, until it is cancelled."""
    with contextlib.closing(AsyncHttp(port)) as client:
        while True:
            if produces:
                status, _, _ = await client.ask("POST", "/queues/q/jobs", b"1")
                outcome.answers[f"jobs {status}"] += 1
                continue
            status, headers, _ = await client.ask("GET", "/queues/q+c0/next?timeout=1")
            outcome.answers[f"next {status}"] += 1
            if status == 200:
                await client.ask("POST", f"/leases/{headers['lease-id']}/ack")
            elif status == 404:
                await asyncio.sleep(0.005)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--broker", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        outcome = asyncio.run(run(Path(directory), options.rounds, broker=options.broker))
    print(f"{outcome.final} of {outcome.rounds} deletions are final; {dict(outcome.answers)}")
    return outcome.final != outcome.rounds


if __name__ == "__main__":
    sys.exit(main())
