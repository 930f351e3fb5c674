"""A gateway as users run it: real processes on a free port, with its embedded broker in a directory of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import httpx

from tests.lab import plain
from tests.lab.forkserver import ForkedProcess
from tests.lab.lifeline import lifeline, tied
from tests.lab.ports import free_port
from tests.lab.processes import START_S, group_lives

ROOT = Path(__file__).resolve().parent.parent.parent


class Running:
    """One `serve`. Its whole process group is ended by `kill`. started: every one that is still referenced."""

    started: ClassVar[weakref.WeakSet[Running]] = weakref.WeakSet()
    start_s: float = START_S
    python: str = sys.executable
    memcache_address: tuple[str, int] | None = None  # where memcache clients reach its broker, if they do
    folder: Path | None = None  # where it starts; None: here, so that it runs from the sources

    def __init__(self, data: Path, *flags: str, port: int | None = None) -> None:
        self.data = data
        self.flags = flags
        self.environment = dict(os.environ)
        if os.environ.get("KESTREL_GATEWAY_TEST_SERVER") == "uvicorn":
            self.flags += ("--app", "tests.lab.under_uvicorn:create_app")
            self.environment["PYTHONPATH"] = str(ROOT)
        self.port = port or free_port()
        self.url = f"{'https' if '--ssl-certfile' in flags else 'http'}://127.0.0.1:{self.port}"
        self.log = data.parent / f"{data.name}-{self.port}.log"
        self._connections: list[socket.socket] = []
        self.start()
        self.started.add(self)

    @property
    def is_open(self) -> bool:
        """Whether it needs neither keys nor certificates."""
        return not {"--keys", "--ssl-certfile"} & set(self.flags)

    def start(self) -> None:
        """Starts it, again on the same port and directory, and returns when it is ready."""
        command = tied("gateway", "serve", "--port", str(self.port), "--data", str(self.data), python=self.python)
        with self.log.open("ab") as log:
            self.process: subprocess.Popen[bytes] = ForkedProcess(
                [*command, *self.flags],
                stdout=log,
                stderr=log,
                stdin=lifeline(),
                start_new_session=True,
                cwd=self.folder,
                env=self.environment,
            )
        deadline_s = time.monotonic() + self.start_s
        while True:
            with contextlib.suppress(httpx.TransportError):
                if self.ready():
                    return
            if self.process.poll() is not None or time.monotonic() > deadline_s:
                self.kill()
                raise RuntimeError(f"the gateway did not start:\n{self.log.read_text()}")
            time.sleep(0.01)

    def ready(self) -> bool:
        """Whether it says that it can serve. Raises httpx.TransportError while no process listens."""
        try:
            socket.create_connection(("127.0.0.1", self.port), 10).close()
        except OSError as error:  # as httpx finds out by ten times the work
            raise httpx.ConnectError(str(error)) from error
        return plain.get(self.url + "/readyz", timeout=10).status_code == 200

    def stop(self) -> int:
        """Ends it in order; returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self) -> None:
        """Ends every process of it at once, as a power cut would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        deadline_s = time.monotonic() + 60
        while group_lives(self.process.pid):
            assert time.monotonic() < deadline_s, "a process outlives its SIGKILL"
            time.sleep(0.005)

    def client(self, **options: Any) -> httpx.Client:
        make = plain.client if self.url.startswith("http:") else httpx.Client
        return make(base_url=self.url, timeout=30, **options)

    def connect(self) -> socket.socket:
        """A new connection, closed when the gateway is killed if the test has not closed it."""
        self._connections.append(socket.create_connection(("127.0.0.1", self.port), 10))
        return self._connections[-1]

    def raw(self, request: bytes) -> bytes:
        """What the server answers to these very bytes, until it closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
            connection.settimeout(10)
            connection.sendall(request)
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
            return answer


@contextlib.contextmanager
def running(data: Path, *flags: str) -> Iterator[Running]:
    """A gateway that is killed in the end. Where nothing has failed, its ledger of leases balances then."""
    from tests.lab import ledger

    gateway = Running(data, *flags)
    try:
        yield gateway
        if gateway.is_open:
            ledger.check(gateway)
    finally:
        if "COVERAGE_PROCESS_CONFIG" in os.environ:  # `make coverage`: a killed process reports nothing
            with contextlib.suppress(subprocess.TimeoutExpired):
                gateway.stop()
        gateway.kill()
