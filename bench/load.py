"""The load generator: a process of its own that answers orders, one line of JSON each, on standard input.

Owns the client side of every measurement: request bytes are built once, answers are looked at only as far as needed
to know where they end. It must stay cheaper than any server it loads. It starts and measures no server.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from bench.holding import Holding
from bench.memcache import Fill, StoreConnection, set_command
from bench.parking import Parking
from bench.wire import JOB, LoadConnection, LoadError, http_request, limit_descriptors, split_address


class Loop:
    """A closed loop: each connection has one request under way until `units` of work are done.

    A unit is one request, or with `ack` a `next` that brings a job and the ack of its lease. chain: the ack is in the
    next request, so that each but the first of a connection has one; the last lease is acked by itself. headers: of
    each request. An empty status accepts any.
    """

    def __init__(  # noqa: PLR0917 (one caller)
        self, host: str, request: bytes, status: str, ack: bool, chain: bool = False, headers: str = ""
    ) -> None:
        self._host = host
        self._request = request
        self._status = status.encode()
        self._ack = ack
        self._chain = chain
        self._headers = headers
        self._connections: list[LoadConnection] = []
        self._left = 0
        self._busy = 0
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answers: Counter[str] = Counter()

    async def open(self, kind: str, host: str, port: int, count: int) -> None:
        """Opens the connections, a few at a time."""
        make = LoadConnection if kind == "http" else StoreConnection
        loop = asyncio.get_running_loop()
        for _ in range(count):
            _, connection = await loop.create_connection(lambda: make(self._answered, self._lost), host, port)
            self._connections.append(connection)

    async def run(self, units: int) -> float:
        """Does the work and returns the seconds it took."""
        self._done = asyncio.get_running_loop().create_future()
        self.answers.clear()
        self._left = units
        started_s = time.perf_counter()
        for connection in self._connections[:units]:
            self._left -= 1
            self._busy += 1
            connection.write(self._request)
        await self._done
        return time.perf_counter() - started_s

    def close(self) -> None:
        """Closes the connections; no answer is counted any more."""
        for connection in self._connections:
            connection.close()

    def _answered(self, connection: LoadConnection, status: bytes, answer: bytes) -> None:
        self.answers[status.decode()] += 1
        if status == self._status:
            if self._ack:
                lease = _lease(answer)
                connection.write(http_request("POST", f"/leases/{lease}/ack", self._host, headers=self._headers))
                return
            if self._chain:
                self._go_on(connection, answer)
                return
        elif self._chain and status == b"204":
            pass  # the ack of the last lease
        elif not self._status:
            pass
        elif not (self._ack and status == b"204"):
            self._fail(f"asked for {self._status.decode()}, got {answer[:300]!r}")
            return
        if self._left:
            self._left -= 1
            connection.write(self._request)
            return
        self._busy -= 1
        if not self._busy and not self._done.done():
            self._done.set_result(None)

    def _go_on(self, connection: LoadConnection, answer: bytes) -> None:
        lease = _lease(answer)
        if self._left:
            self._left -= 1
            connection.write(self._request.replace(b"?timeout=0 ", f"?timeout=0&ack={lease} ".encode()))
        else:
            connection.write(http_request("POST", f"/leases/{lease}/ack", self._host, headers=self._headers))

    def _lost(self, connection: LoadConnection) -> None:
        self._fail("the server closed a connection")

    def _fail(self, why: str) -> None:
        if not self._done.done():
            self._done.set_exception(LoadError(why))


def _lease(answer: bytes) -> str:
    start = answer.index(b"\r\nlease-id: ") + 12
    return answer[start : answer.index(b"\r\n", start)].decode()


class Orders:
    """What the parent may ask for; each answers a JSON object."""

    def __init__(self) -> None:
        self._loop: Loop | None = None
        self._park: Parking | None = None
        self._holding: Holding | None = None

    async def open(
        self,
        *,
        kind: str,
        address: str,
        connections: int,
        request: dict[str, Any],
        status: str,
        ack: bool = False,
        chain: bool = False,
    ) -> dict[str, Any]:
        """Connects; `run` then repeats the request. kind: http or memcache."""
        host, port = split_address(address)
        if kind == "http":
            body, jobs = (JOB, request.get("jobs", 1)) if request["body"] else (b"", 1)
            headers = request.get("headers", "")
            wire = http_request(request["method"], request["path"], address, body, headers=headers, jobs=jobs)
        else:
            wire = set_command(request["queue"], JOB)
        self._loop = Loop(address, wire, status, ack, chain, request.get("headers", ""))
        await self._loop.open(kind, host, port, connections)
        return {}

    async def run(self, units: int) -> dict[str, Any]:
        """Does `units` of work over the open connections."""
        assert self._loop is not None
        seconds = await self._loop.run(units)
        return {"seconds": seconds, "answers": dict(self._loop.answers)}

    async def close(self) -> dict[str, Any]:
        """Closes what `open` opened."""
        assert self._loop is not None
        self._loop.close()
        await asyncio.sleep(0)
        return {}

    async def fill(self, address: str, queue: str, count: int) -> dict[str, Any]:
        """Stores `count` jobs, pipelined, and returns when all are acknowledged."""
        started_s = time.perf_counter()
        await Fill(address, queue, JOB, count).run()
        return {"seconds": time.perf_counter() - started_s}

    async def park(self, *, address: str, poll: str, wake: str, count: int, ack: bool) -> dict[str, Any]:
        """Opens `count` connections, each with one poll under way. poll, wake: paths."""
        self._park = Parking(address, poll, wake, ack)
        await self._park.open(count)
        return {}

    async def wake(self, count: int, pause_s: float) -> dict[str, Any]:
        """Wakes parked polls one at a time; milliseconds from writing the enqueue to the parked poll's answer."""
        assert self._park is not None
        return {"ms": await self._park.wake(count, pause_s)}

    async def drain(self, pid: int) -> dict[str, Any]:
        """Ends the server of the parked polls; milliseconds from the signal until each is answered."""
        assert self._park is not None
        return {"ms": await self._park.drain(pid)}

    async def leave(self) -> dict[str, Any]:
        """Closes the parked connections."""
        assert self._park is not None
        self._park.close()
        await asyncio.sleep(0)
        return {}

    async def hold(self, *, address: str, take: str, count: int, connections: int) -> dict[str, Any]:
        """Takes `count` leases and keeps them. take: path of a `next`."""
        self._holding = Holding(address, take, connections)
        return {"seconds": await self._holding.hold(count)}

    async def settle(self, count: int, pause_s: float) -> dict[str, Any]:
        """Acks leases that are held, one at a time; milliseconds each."""
        assert self._holding is not None
        return {"ms": await self._holding.settle(count, pause_s)}

    async def release(self) -> dict[str, Any]:
        """Closes the connections that the leases were taken over."""
        assert self._holding is not None
        self._holding.close()
        await asyncio.sleep(0)
        return {}


async def obey() -> None:
    """Runs orders until standard input ends. The loop does nothing between two orders: nothing is measured then."""
    orders = Orders()
    for line in sys.stdin:
        order = json.loads(line)
        act: Callable[..., Awaitable[dict[str, Any]]] = getattr(orders, order.pop("do"))
        try:
            reply = await act(**order)
        except (OSError, LoadError) as exc:
            reply = {"error": f"{type(exc).__name__}: {exc}"}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's end of the pipe is what ends this process
    limit_descriptors()
    uvloop.run(obey())
