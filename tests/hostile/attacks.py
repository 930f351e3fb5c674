"""What a hostile tenant does, everything at once, to a gateway on this machine: `python -m tests.hostile.attacks`.

Each attack is a coroutine that goes on until it is cancelled. It never sends faster than its answers come, and steps
back for the gateway and for the other tenant (priority.py).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import itertools
import os
import random
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import orjson
import uvloop

from bench.wire import limit_descriptors
from tests.hostile.priority import step_back

MIB = 1 << 20
POLLED_QUEUES = 2100
LEASES = 10_000
HOST = "127.0.0.1"


@dataclass(slots=True)
class Target:
    """Where it goes, and the hostile tenant's key. answers: how many of which status each attack got."""

    port: int
    secret: str
    memcache: int = 0
    answers: dict[str, Counter[str]] = field(default_factory=dict)
    scale: float = 1.0

    def many(self, count: int) -> int:
        """So many connections of a kind, less in a short run."""
        return max(1, round(count * self.scale))


class Caller:
    """One connection of the hostile tenant, made again whenever it ends."""

    def __init__(self, target: Target, name: str) -> None:
        self._port = target.port
        self._secret = target.secret
        self._counts = target.answers.setdefault(name, Counter())
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, line: str, body: bytes = b"", kind: str = "", *, announce: int | None = None) -> bytes:
        """The body of the answer. announce: a Content-Length other than the body's own. Raises OSError."""
        await self.send(line, body, kind, announce=announce)
        return await self.answer()

    async def send(self, line: str, body: bytes = b"", kind: str = "", *, announce: int | None = None) -> None:
        if self._streams is None:
            self._streams = await asyncio.open_connection(HOST, self._port, limit=4 * MIB)
        lines = [f"{line} HTTP/1.1", f"Host: {HOST}", f"Authorization: Bearer {self._secret}"]
        if body or announce is not None:
            lines.append(f"Content-Length: {len(body) if announce is None else announce}")
        if kind:
            lines.append(f"Content-Type: {kind}")
        writer = self._streams[1]
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            await writer.drain()
        except RuntimeError as error:  # uvloop's, where the gateway has closed the connection
            self.close()
            raise ConnectionResetError from error

    async def answer(self) -> bytes:
        assert self._streams is not None
        reader, writer = self._streams
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            start = head.find(b"content-length: ")
            length = int(head[start + 16 : head.index(b"\r", start)]) if start >= 0 else 0
            body = await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            self._counts["cut"] += 1
            self.close()
            raise ConnectionResetError from error
        code = body.partition(b'"code":"')[2].partition(b'"')[0]
        self._counts[f"{head[9:12].decode()} {code.decode()}".strip()] += 1
        if b"connection: close" in head:
            writer.close()
            self._streams = None
        if head[9:12] in {b"503", b"429"}:
            await asyncio.sleep(0.05)  # a caller that asked again at once would only hurt its own share
        return body

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


Attack = Callable[[Target], Awaitable[None]]


async def over_and_over(target: Target, name: str, lines: Callable[[], tuple[str, bytes, str]]) -> None:
    """One request after the other on one connection."""
    caller = Caller(target, name)
    while True:
        with contextlib.suppress(OSError):
            await caller.ask(*lines())
            continue
        await asyncio.sleep(0.1)


def several(count: int, name: str, make: Callable[[], tuple[str, bytes, str]]) -> Attack:
    """The same request on so many connections."""

    async def attack(target: Target) -> None:
        await asyncio.gather(*(over_and_over(target, name, make) for _ in range(target.many(count))))

    return attack


FILTERS = "&".join(["filter=name~" + "*" + "a" * 50 + "b"] * 16)
NEWLINES, BLANKS = b"\n" * (8 * MIB), b"[" + b" " * (8 * MIB - 2) + b"]"
EVENT = {"specversion": "1.0", "id": "1", "source": "s", "type": "t"}
HUGE_EVENT = orjson.dumps(EVENT | {f"a{i}": i for i in range(80_000)})
HUGE_ELEMENT = b"[" + orjson.dumps(EVENT | {"data": "x" * (8 * MIB - 200)}) + b"]"
NESTED = b"[" + b"[]," * ((MIB - 4) // 3) + b"[]]"
LINES = b"1\n" * 1000
NEW = itertools.count()


async def parked_polls(target: Target) -> None:
    """A poll on each of 2,100 queues."""

    async def poll(number: int) -> None:
        await over_and_over(target, "polls", lambda: (f"GET /queues/p{number}/next?timeout=40", b"", ""))

    await asyncio.gather(*(poll(number) for number in range(target.many(POLLED_QUEUES))))


async def leases(target: Target) -> None:
    """Leases of 12 hours, as many as there are."""
    producer = Caller(target, "leases: enqueue")

    async def take() -> None:
        caller = Caller(target, "leases")
        for _ in range(LEASES // 8):
            with contextlib.suppress(OSError):
                await caller.ask("GET /queues/hoard/next?timeout=0&lease=43200")

    for _ in range(LEASES // 1000):
        with contextlib.suppress(OSError):
            await producer.ask("POST /queues/hoard/jobs", LINES, "application/x-ndjson")
    while True:
        await asyncio.gather(*(take() for _ in range(8)))


async def half_bodies(target: Target) -> None:
    """60 batches that are never sent to their end."""

    async def half() -> None:
        caller = Caller(target, "half-sent bodies")
        while True:
            with contextlib.suppress(OSError):
                size = 8 * MIB - random.randrange(1, 1000)
                await caller.ask("POST /queues/q/jobs", LINES * 3500, "application/x-ndjson", announce=size)
            await asyncio.sleep(0.1)

    await asyncio.gather(*(half() for _ in range(60)))


async def slow_readers(target: Target) -> None:
    """Large answers that are not read, or by a few bytes."""
    with contextlib.suppress(OSError):
        await Caller(target, "slow readers").ask("POST /queues/large/jobs", b"x" * (MIB - 100), "text/plain")
    loop = asyncio.get_running_loop()

    async def slow() -> None:
        while True:
            connection = socket.socket()
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            try:
                await loop.sock_connect(connection, (HOST, target.port))
                head = f"GET /queues/large/peek HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {target.secret}\r\n\r\n"
                await loop.sock_sendall(connection, head.encode() * 3)
                while await loop.sock_recv(connection, 100):
                    await asyncio.sleep(5)
            except OSError:
                await asyncio.sleep(0.5)
            finally:
                connection.close()

    await asyncio.gather(*(slow() for _ in range(target.many(200))))


async def signed_again(target: Target) -> None:
    """Ids with letters moved, and with bytes changed."""
    caller = Caller(target, "ids signed again")
    while True:
        with contextlib.suppress(OSError):
            await caller.ask("POST /queues/ids/jobs", b"1", "application/json")
            taken = orjson.loads(await caller.ask("GET /queues/ids/next?timeout=0&lease=1") or b"{}")
            raw = base64.urlsafe_b64decode(taken.get("lease", {}).get("id", "A" * 56))
            for middle in (b"abc", b"http://127.0.0.1:1/"[:18], os.urandom(3)):
                forged = base64.urlsafe_b64encode(raw[:-16] + middle + raw[-16:]).decode()
                await caller.ask(f"POST /leases/{forged}/ack", b"{}", "application/json")


async def silent_connections(target: Target) -> None:
    """Connections that say nothing, or half a head, opened again when they are closed."""

    async def silent(said: bytes) -> None:
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(HOST, target.port)
                writer.write(said)
                with contextlib.suppress(OSError):
                    await reader.read(65536)
                writer.close()
            await asyncio.sleep(0.5)

    half = b"GET / HTTP/1.1\r\nHost: x\r\nfiller: " + b"x" * 60_000
    await asyncio.gather(*(silent(half if i % 10 == 0 else b"") for i in range(target.many(2000))))


async def bad_numbers(target: Target) -> None:
    """What the memcache port must refuse, and half-sent sets, where it can be reached."""
    commands = [
        b"set hostile__q 0 999999999999999999 1\r\nx\r\n", b"set hostile__q 0 -1 1\r\nx\r\n",
        b"get hostile__q/t=99999999999999999999\r\n", b"monitor hostile__q 99999999999999999999 99999999999999\r\n",
        b"confirm hostile__q 99999999999999999999\r\n", b"set hostile__q 0 0 99999999999999999999\r\n",
        b"set hostile__q 0 0 " + b"%d\r\n" % (8 * MIB) + bytes(4 * MIB),
    ]  # fmt: skip

    async def one(command: bytes) -> None:
        while target.memcache:
            with contextlib.suppress(OSError, TimeoutError):
                reader, writer = await asyncio.open_connection(HOST, target.memcache)
                writer.write(command)
                async with asyncio.timeout(5 if len(command) > 1000 else 0.5):
                    await reader.read(1000)
                writer.close()
            await asyncio.sleep(0.2)

    await asyncio.gather(*(one(command) for command in commands for _ in range(3)))


ATTACKS: dict[str, Attack] = {
    "filters": several(2, "filters", lambda: (f"GET /queues?limit=1&{FILTERS}", b"", "")),
    "newlines": several(2, "newlines", lambda: ("POST /queues/q/jobs", NEWLINES, "application/x-ndjson")),
    "blanks": several(
        2, "blanks", lambda: ("POST /queues/q/jobs", BLANKS, "application/cloudevents-batch+json")
    ),
    "attributes": several(2, "attributes", lambda: ("POST /queues/q/jobs", HUGE_EVENT, "application/cloudevents+json")),
    "element": several(
        2, "element", lambda: ("POST /queues/q/jobs", HUGE_ELEMENT, "application/cloudevents-batch+json")
    ),
    "nested": several(2, "nested", lambda: ("POST /queues/q/jobs", NESTED, "application/json")),
    "batches": several(2, "batches", lambda: ("POST /queues/batch/jobs", LINES, "application/x-ndjson")),
    "new queues": several(
        2, "new queues", lambda: (f"POST /queues/{next(NEW):05d}{'a' * 50}b/jobs", b"1", "application/json")
    ),
    "peeks": several(2, "peeks", lambda: ("GET /queues/q/peek", b"", "")),
    "polls": parked_polls,
    "leases": leases,
    "half-sent bodies": half_bodies,
    "slow readers": slow_readers,
    "ids signed again": signed_again,
    "silent connections": silent_connections,
    "bad numbers": bad_numbers,
}  # fmt: skip


async def attack(target: Target, names: list[str], seconds: float) -> None:
    """All of the attacks at once, for so long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(ATTACKS[name](target) for name in names))


def main() -> None:
    """Prints how many answers of which status each attack got, as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--memcache", type=int, default=0)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--only", nargs="*", default=list(ATTACKS))
    asked = parser.parse_args()
    step_back()
    limit_descriptors()
    target = Target(asked.port, os.environ["HOSTILE_KEY"], asked.memcache, scale=asked.scale)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(attack(target, asked.only, asked.seconds))
    sys.stdout.write(orjson.dumps(target.answers).decode())


if __name__ == "__main__":
    main()
