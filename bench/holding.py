"""Takes leases and keeps them, and settles them one at a time: the load generator's orders `hold` and `settle`."""

from __future__ import annotations

import asyncio
import time

from bench.wire import LoadConnection, LoadError, http_request, split_address


class Holding:
    """Leases taken over `connections` keep-alive connections; the queue must hold enough jobs.

    take: path of a `next` that answers at once.
    """

    def __init__(self, address: str, take: str, connections: int) -> None:
        self._address = address
        self._take = http_request("GET", take, address)
        self._count = connections
        self._connections: list[LoadConnection] = []
        self._leases: list[str] = []
        self._wanted = 0  # leases still to be asked for
        self._goal = 0
        self._said: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def hold(self, count: int) -> float:
        """Holds `count` leases; returns the seconds it took."""
        started_s = time.perf_counter()
        self._wanted = count
        self._goal = len(self._leases) + count
        self._said = asyncio.get_running_loop().create_future()
        for _ in range(self._count):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: LoadConnection(self._taken, self._lost), *split_address(self._address)
            )
            self._connections.append(connection)
            self._ask(connection)
        await self._said
        return time.perf_counter() - started_s

    async def settle(self, count: int, pause_s: float) -> list[float]:
        """Milliseconds each, from writing an ack to its 204, one at a time."""
        took_ms: list[float] = []
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: LoadConnection(self._settled, self._lost), *split_address(self._address)
        )
        for lease in [self._leases.pop() for _ in range(count)]:
            await asyncio.sleep(pause_s)
            self._said = asyncio.get_running_loop().create_future()
            started_s = time.perf_counter()
            connection.write(http_request("POST", f"/leases/{lease}/ack", self._address))
            await self._said
            took_ms.append((time.perf_counter() - started_s) * 1000)
        connection.close()
        return took_ms

    def close(self) -> None:
        """Closes the connections; the leases stay."""
        for connection in self._connections:
            connection.close()

    def _ask(self, connection: LoadConnection) -> None:
        if self._wanted:
            self._wanted -= 1
            connection.write(self._take)

    def _taken(self, connection: LoadConnection, status: bytes, answer: bytes) -> None:
        if status == b"204":
            connection.write(self._take)  # the other worker's reads had it set aside for a moment
            return
        if status != b"200":
            self._fail(f"a lease was refused: {answer[:300]!r}")
            return
        start = answer.index(b"\r\nlease-id: ") + 12
        self._leases.append(answer[start : answer.index(b"\r\n", start)].decode())
        self._ask(connection)
        if len(self._leases) == self._goal and not self._said.done():
            self._said.set_result(status)

    def _settled(self, connection: LoadConnection, status: bytes, answer: bytes) -> None:
        if status != b"204":
            self._fail(f"an ack was answered with {answer[:300]!r}")
        elif not self._said.done():
            self._said.set_result(status)

    def _lost(self, connection: LoadConnection) -> None:
        self._fail("the server closed a connection")

    def _fail(self, why: str) -> None:
        if not self._said.done():
            self._said.set_exception(LoadError(why))
