"""Parks polls, wakes them one at a time or drains their server: the load generator's orders `park`, `wake`, `drain`."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import TypeVar

from bench.wire import JOB, LoadConnection, LoadError, http_request, split_address

OPENED_AT_ONCE = 50
T = TypeVar("T")
OnAnswer = Callable[[LoadConnection, bytes, bytes], None]


class Parking:
    """Connections with one poll under way each, and one more for everything else.

    poll, wake: paths; `{number}` in poll differs from poll to poll. wake: a POST of the benchmark's job. ack: whether
    an answered poll brings a lease to settle.
    """

    def __init__(self, address: str, poll: str, wake: str, ack: bool) -> None:
        self._address = address
        self._path = poll
        self._poll = http_request("GET", poll, address)
        self._wake = http_request("POST", wake, address, JOB)
        self._alive = http_request("GET", "/livez", address)
        self._ack = ack
        self._polls: list[LoadConnection] = []
        self._woken: asyncio.Queue[tuple[LoadConnection, bytes, float] | LoadError] = asyncio.Queue()
        self._said: asyncio.Queue[bytes | LoadError] = asyncio.Queue()
        self._drained: list[float] | None = None  # after the server was asked to end: when each poll was answered

    async def open(self, count: int) -> None:
        """Returns when the server has read every poll."""
        self._control = await self._connect(lambda connection, status, answer: self._said.put_nowait(status))
        while len(self._polls) < count:
            for _ in range(min(OPENED_AT_ONCE, count - len(self._polls))):
                connection = await self._connect(self._answered)
                number = str(len(self._polls))
                connection.write(http_request("GET", self._path.replace("{number}", number), self._address))
                self._polls.append(connection)
            await self._ask(self._alive, b"200")

    async def wake(self, count: int, pause_s: float) -> list[float]:
        """Milliseconds each, from writing the enqueue to the complete answer of a parked poll, one at a time."""
        took_ms: list[float] = []
        for _ in range(count):
            await asyncio.sleep(pause_s)
            started_s = time.perf_counter()
            self._control.write(self._wake)
            connection, answer, ended_s = _checked(await self._woken.get())
            took_ms.append((ended_s - started_s) * 1000)
            await self._expect(b"201")
            if self._ack:
                start = answer.index(b"\r\nlease-id: ") + 12
                lease = answer[start : answer.index(b"\r\n", start)].decode()
                await self._ask(http_request("POST", f"/leases/{lease}/ack", self._address), b"204")
            connection.write(self._poll)
            await self._ask(self._alive, b"200")
        return took_ms

    async def drain(self, pid: int) -> list[float]:
        """Milliseconds each, from SIGTERM to the process until a poll's whole 204, which closes its connection."""
        self._drained = []
        started_s = time.perf_counter()
        os.kill(pid, signal.SIGTERM)
        while len(self._drained) < len(self._polls):
            _checked(await self._woken.get())
        return [(ended_s - started_s) * 1000 for ended_s in self._drained]

    def close(self) -> None:
        """Closes every connection."""
        for connection in [*self._polls, self._control]:
            connection.close()

    async def _connect(self, answered: OnAnswer) -> LoadConnection:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: LoadConnection(answered, self._lost), *split_address(self._address)
        )
        return connection

    def _answered(self, connection: LoadConnection, status: bytes, answer: bytes) -> None:
        if self._drained is not None:
            if status != b"204" or b"\r\nconnection: close\r\n" not in answer.lower():
                self._fail(f"a poll was answered with {answer[:300]!r} in the drain")
            self._drained.append(time.perf_counter())
            if len(self._drained) == len(self._polls):
                self._woken.put_nowait((connection, answer, self._drained[-1]))
            return
        if status != b"200":
            self._fail(f"a parked poll was answered with {answer[:300]!r}")
        self._woken.put_nowait((connection, answer, time.perf_counter()))

    def _lost(self, connection: LoadConnection) -> None:
        if self._drained is None:
            self._fail("the server closed a connection")

    def _fail(self, why: str) -> None:
        self._woken.put_nowait(LoadError(why))
        self._said.put_nowait(LoadError(why))

    async def _ask(self, request: bytes, status: bytes) -> None:
        self._control.write(request)
        await self._expect(status)

    async def _expect(self, status: bytes) -> None:
        said = _checked(await self._said.get())
        if said != status:
            raise LoadError(f"expected {status.decode()}, got {said.decode()}")


def _checked(value: T | LoadError) -> T:
    if isinstance(value, LoadError):
        raise value
    return value
