"""A worker whose event loop measures itself: how much CPU time its longest turn took.

The loop runs in a thread of the test, with the application and the HTTP server that `serve` runs, in front of a broker
in a process of its own. What is measured is the thread's CPU time, so other processes do not count.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from gateway.app import Gateway, WorkerContext
from gateway.http.server import GatewayServer
from gateway.leases.lease import Lease
from gateway.process.worker import _spare_the_collector
from gateway.settings import Settings
from tests.lab import plain

REFERENCE_STEPS = 500_000
"""Of a loop of Python that takes 20 ms where the machine is quiet and as fast as those that the limit was chosen on: a
slower machine has more time, by the same work."""
MEASURED_STEPS = 100_000
"""So many are done to measure them."""


class MeasuredLoop(asyncio.SelectorEventLoop):
    """An event loop that knows its longest turn, in seconds of its thread's CPU time."""

    def __init__(self) -> None:
        super().__init__(selectors.DefaultSelector())
        self.longest_s = 0.0

    def _run_once(self) -> None:
        began_s = time.thread_time()
        super()._run_once()  # type: ignore[misc] # the stubs leave it out
        self.longest_s = max(self.longest_s, time.thread_time() - began_s)


class Worker:
    """One worker, ready when the constructor returns."""

    def __init__(self, directory: Path, kestrel: str, **settings: Any) -> None:
        self.settings = Settings(data=directory, port=0, **settings)
        self.loop = MeasuredLoop()
        self._directory = directory
        self._kestrel = kestrel
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="worker")
        self._thread.start()
        assert self._ready.wait(60)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> httpx.Client:
        return plain.client(base_url=self.url, timeout=60, **options)

    def raw(self, request: bytes) -> bytes:
        """What is answered to these bytes until the connection closes."""
        with socket.create_connection(("127.0.0.1", self.port), 60) as connection:
            connection.settimeout(60)
            with contextlib.suppress(OSError):  # refused while it is still sent
                connection.sendall(request)
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while chunk := connection.recv(65536):
                    answer += chunk
            return answer

    @contextlib.contextmanager
    def held(self) -> Iterator[list[float]]:
        """Measures the longest turn within the context; the list has it afterwards, in seconds."""
        found: list[float] = []
        self._settle()
        self.loop.longest_s = 0.0
        yield found
        self._settle()
        found.append(self.loop.longest_s)

    def _settle(self) -> None:
        """Returns after some turns of the loop, so that what was begun before is counted before."""
        for _ in range(3):
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0.003), self.loop).result(60)

    def leases(self, queue: str) -> list[Lease]:
        """The open leases on the queue."""
        return [lease for lease in self.registry.leases.open() if lease.queue == queue]

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        _spare_the_collector()
        run_dir = self._directory / "run"
        run_dir.mkdir(parents=True, exist_ok=True)
        context = WorkerContext(
            index=0,
            boot_id=secrets.token_hex(8),
            run_dir=run_dir,
            lease_key=secrets.token_bytes(32),
            kestrel=(self._kestrel,),
            tenanted=self.settings.keys is not None,
        )
        application = Gateway(self.settings, context)
        self.registry = application._registry
        self.loop_time = application.loop_time
        server = GatewayServer(application, self.settings, application.buffers, application.loop_time)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
            await server.start(listener)
            self._ready.set()
            await self._stop.wait()
            await server.stop()


def reference_s() -> float:
    """The CPU time of the reference work, now."""
    times = []
    for _ in range(3):
        began_s = time.thread_time()
        total = 0
        for number in range(MEASURED_STEPS):
            total += number
        times.append(time.thread_time() - began_s)
    return sorted(times)[1] * REFERENCE_STEPS / MEASURED_STEPS
