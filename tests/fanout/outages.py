"""Two subscriptions, three producers, two consumers each, three servers, of which one is killed and one joins.

    python -m tests.fanout.outages --seconds 60 [--standin]

Checks that each subscription gets every job that was answered with 201, and none after its ack was answered with 204.
The servers are embedded brokers, or with `--standin` stand-ins with the races of a real Kestrel, which lose their
connections instead of being killed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from tests.kestrel.standin import Manners, StandIn
from tests.lab.broker import BrokerProcess
from tests.lab.gateway import Running
from tests.lab.http import AsyncHttp

CHILDREN = ("audit", "mail")
JSON = "Content-Type: application/json\r\n"
QUIET_S = 2.0
"""A subscription without a job for this long, while nothing is enqueued any more, has delivered everything."""


@dataclass
class History:
    """stored: ids of jobs that were answered with 201. acked: by subscription, the ids whose ack was answered with 204.

    again: deliveries after such an ack. twice: deliveries before it, of jobs that were delivered before.
    """

    stored: set[str] = field(default_factory=set)
    acked: dict[str, set[str]] = field(default_factory=lambda: {child: set() for child in CHILDREN})
    delivered: dict[str, set[str]] = field(default_factory=lambda: {child: set() for child in CHILDREN})
    again: list[str] = field(default_factory=list)
    twice: int = 0
    answers: Counter[str] = field(default_factory=Counter)

    @property
    def missing(self) -> dict[str, int]:
        return {child: len(self.stored - self.delivered[child]) for child in CHILDREN}

    @property
    def good(self) -> bool:
        return not self.again and not any(self.missing.values()) and len(self.stored) > 0

    def __str__(self) -> str:
        return (
            f"{len(self.stored)} jobs stored; missing {self.missing}; delivered after the ack {len(self.again)}; "
            f"delivered twice before it {self.twice}; {dict(sorted(self.answers.items()))}"
        )


@dataclass
class Member:
    """One server, and how it dies and returns."""

    address: str
    kill: Callable[[], Awaitable[None]]
    start: Callable[[], Awaitable[None]]


@contextlib.asynccontextmanager
async def servers(directory: Path, count: int, *, standin: bool) -> AsyncIterator[list[Member]]:
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for number in range(count):
            if standin:
                server = await stack.enter_async_context(StandIn(Manners(copying_s=0.003)))
                found.append(Member(server.address, server.stop, server.open))
                continue
            broker = await asyncio.to_thread(BrokerProcess, directory / f"broker{number}")
            stack.callback(broker.close)
            found.append(Member(broker.address, _threaded(broker.kill), _threaded(broker.start)))
        yield found


def _threaded(work: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    return lambda: asyncio.to_thread(work)


async def run(directory: Path, seconds: float, *, standin: bool) -> History:
    """The third server joins after a third of the time; the first is killed then, and returns after two thirds."""
    history = History()
    members = directory / "members"
    async with servers(directory, 4, standin=standin) as found:
        members.write_text("".join(f"{each.address}\n" for each in found[:3]))
        flags = ("--kestrel-file", str(members), "--workers", "2")
        gateway = await asyncio.to_thread(Running, directory / "gateway", *flags)
        try:
            with contextlib.closing(AsyncHttp(gateway.port)) as admin:
                for child in CHILDREN:
                    await _subscribe(admin, child)
            producing = asyncio.Event()
            producers = [asyncio.create_task(_produce(gateway.port, history, producing)) for _ in range(3)]
            consumers = [
                asyncio.create_task(_consume(gateway.port, history, child, producing))
                for child in CHILDREN
                for _ in range(2)
            ]
            await asyncio.sleep(seconds / 3)
            await found[0].kill()
            members.write_text("".join(f"{each.address}\n" for each in found))
            gateway.process.send_signal(signal.SIGHUP)
            await asyncio.sleep(seconds / 3)
            await found[0].start()
            await asyncio.sleep(seconds / 3)
            producing.set()
            await asyncio.gather(*producers, *consumers)
        finally:
            await asyncio.to_thread(gateway.kill)
    return history


async def _subscribe(admin: AsyncHttp, child: str) -> None:
    async with asyncio.timeout(10):
        while (await admin.ask("PUT", f"/queues/q/subscriptions/{child}"))[0] not in (200, 201):
            await asyncio.sleep(0.05)


async def _produce(port: int, history: History, over: asyncio.Event) -> None:
    with contextlib.closing(AsyncHttp(port)) as client:
        while not over.is_set():
            status, _, body = await client.ask("POST", "/queues/q/jobs", b'{"job": 1}', JSON)
            history.answers[f"jobs {status}"] += 1
            if status == 201:
                history.stored.add(orjson.loads(body)["id"])
            await asyncio.sleep(0.002)


async def _consume(port: int, history: History, child: str, over: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    last_s = loop.time()
    with contextlib.closing(AsyncHttp(port)) as client:
        while not over.is_set() or history.missing[child] or loop.time() - last_s < QUIET_S:
            if over.is_set() and loop.time() - last_s > 5 * QUIET_S:
                return
            status, headers, body = await client.ask("GET", f"/queues/q+{child}/next?timeout=1&lease_seconds=20")
            history.answers[f"next {status}"] += 1
            if status != 200:
                await asyncio.sleep(0.02)
                continue
            last_s = loop.time()
            job = orjson.loads(body)["id"]
            if job in history.acked[child]:
                history.again.append(job)
            history.twice += job in history.delivered[child]
            history.delivered[child].add(job)
            status, _, _ = await client.ask("POST", f"/leases/{headers['lease-id']}/ack")
            history.answers[f"ack {status}"] += 1
            if status == 204:
                history.acked[child].add(job)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--standin", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        history = asyncio.run(run(Path(directory), options.seconds, standin=options.standin))
    print(history)
    return not history.good


if __name__ == "__main__":
    sys.exit(main())
