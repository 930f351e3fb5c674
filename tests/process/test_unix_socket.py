"""HTTP on a Unix socket: jobs flow, a client that leaves is noticed, and a path is removed and never taken over."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.lab.commands import COMMAND, run_process
from tests.lab.forkserver import ForkedProcess
from tests.lab.lifeline import lifeline, tied
from tests.lab.processes import START_S


class OnSocket:
    """A gateway that listens on `path`."""

    def __init__(self, folder: Path, path: Path, *flags: str) -> None:
        self.path = path
        self.log = folder / "log"
        arguments = tied("gateway", "serve", "--listen", f"unix:{path}", "--data", str(folder / "data"), *flags)
        with self.log.open("wb") as log:
            self.process: subprocess.Popen[bytes] = ForkedProcess(
                arguments, stdin=lifeline(), stdout=log, stderr=log, start_new_session=True, env=dict(os.environ)
            )

    def ready(self) -> bool:
        """Waits until it is ready; False if it ended."""
        deadline = time.monotonic() + START_S
        while f"ready: unix:{self.path}" not in self.log.read_text():
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)
        return True

    def client(self) -> httpx.Client:
        return httpx.Client(transport=httpx.HTTPTransport(uds=str(self.path)), base_url="http://localhost", timeout=30)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@pytest.fixture
def gateway(short_path: Path) -> Iterator[OnSocket]:
    """One that is ready."""
    one = OnSocket(short_path, short_path / "http.sock", "--workers", "2")
    try:
        assert one.ready(), one.log.read_text()
        yield one
    finally:
        if one.process.poll() is None:
            os.killpg(one.process.pid, signal.SIGKILL)
            one.process.wait(10)


def test_jobs_flow_and_the_path_is_removed(gateway: OnSocket) -> None:
    """Enqueue, take, ack; the health check finds the socket; after the stop the path is gone."""
    assert gateway.path.stat().st_mode & 0o777 == 0o660
    with gateway.client() as http:
        assert http.post("/queues/q/jobs", json={"n": 1}).status_code == 201
        delivery = http.get("/queues/q/next?timeout=5").json()
        assert delivery["data"] == {"n": 1}
        assert http.post(f"{delivery['lease']['url']}/ack").status_code == 204
    checked = run_process(
        [*COMMAND, "healthcheck"], env={**os.environ, "KESTREL_GATEWAY_LISTEN": f"unix:{gateway.path}"}
    )
    assert (checked.returncode, checked.stdout) == (0, f"{gateway.path}: 200\n")
    assert gateway.stop() == 0
    assert not gateway.path.exists()


def test_a_client_that_leaves_while_it_sends_gives_up_its_turn(gateway: OnSocket) -> None:
    """Its poll ends, although bytes wait unread before its end, so the job goes to the next client."""
    with socket.socket(socket.AF_UNIX) as leaving:
        leaving.connect(str(gateway.path))
        leaving.sendall(b"GET /queues/q/next?timeout=20 HTTP/1.1\r\nHost: localhost\r\n\r\n" + b"x" * 100_000)
        with gateway.client() as http:
            while not http.get("/queues/q?missing=zero").json()["waiters"]:
                time.sleep(0.01)
    with gateway.client() as http:
        while http.get("/queues/q?missing=zero").json()["waiters"]:
            time.sleep(0.01)
        assert http.post("/queues/q/jobs", json=1).status_code == 201
        assert http.get("/queues/q/next?timeout=5").json()["attempt"] == 1


def test_a_second_gateway_is_refused_and_a_dead_one_s_path_is_taken(gateway: OnSocket, short_path: Path) -> None:
    """The socket of a running process is never replaced; that of a killed one is."""
    second = OnSocket(short_path / "data", gateway.path)
    assert not second.ready()
    said = second.log.read_text()
    assert f"kestrel-gateway: listen: cannot listen on unix:{gateway.path}: Address already in use" in said
    with gateway.client() as http:
        assert http.get("/livez").status_code == 200
    os.killpg(gateway.process.pid, signal.SIGKILL)
    gateway.process.wait(10)
    assert gateway.path.exists()
    third = OnSocket(short_path, gateway.path)
    try:
        assert third.ready(), third.log.read_text()
        assert third.stop() == 0
    finally:
        if third.process.poll() is None:
            os.killpg(third.process.pid, signal.SIGKILL)
            third.process.wait(10)


@pytest.mark.parametrize(
    ("listen", "wrong"),
    [
        ("127.0.0.1:8080", "is not unix:PATH; a TCP port is set by --host and --port"),
        ("unix:", "is not unix:PATH"),
        (f"unix:/{'x' * 103}", "the path has 104 bytes; a Unix socket's path has at most 103"),
    ],
)
def test_a_bad_path_is_one_line(listen: str, wrong: str) -> None:
    """Nothing is started."""
    result = run_process([*COMMAND, "serve", "--listen", listen])
    assert result.returncode == 2
    assert result.stderr.startswith("kestrel-gateway: listen: ")
    assert wrong in result.stderr
