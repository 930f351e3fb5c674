"""HTTP on a Unix socket: jobs flow, a client that leaves is noticed, and a path is removed and never taken over."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.lab import plain
from tests.lab.commands import NOWHERE, Commands
from tests.lab.forkserver import ForkedProcess
from tests.lab.lifeline import lifeline, tied
from tests.lab.processes import START_S
from tests.lab.waiting import until
from tests.process.test_supervisor import ENVIRONMENT, NOBODY, TINY

command = Commands("http://127.0.0.1:9")


class OnSocket:
    """A gateway that listens on `path`."""

    def __init__(self, folder: Path, path: Path, *flags: str) -> None:
        self.path = path
        self.log = folder / "log"
        arguments = tied("gateway", "serve", "--listen", f"unix:{path}", "--data", str(folder / "data"), *flags)
        with self.log.open("wb") as log:
            self.process: subprocess.Popen[bytes] = ForkedProcess(
                arguments, stdin=lifeline(), stdout=log, stderr=log, start_new_session=True, env=ENVIRONMENT
            )

    def ready(self) -> bool:
        """Waits until it is ready; False if it ended."""
        until(
            lambda: f"ready: unix:{self.path}" in self.log.read_text() or self.process.poll() is not None,
            self.log.read_text,
            within_s=START_S,
        )
        return self.process.poll() is None

    def client(self) -> httpx.Client:
        transport = httpx.HTTPTransport(uds=str(self.path), verify=plain.WITHOUT_TLS)
        return httpx.Client(transport=transport, base_url="http://localhost", timeout=30)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def kill(self) -> None:
        """Ends what is left of it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)


@contextlib.contextmanager
def serving(folder: Path, path: Path, *flags: str) -> Iterator[OnSocket]:
    """One that is ready."""
    one = OnSocket(folder, path, *flags)
    try:
        assert one.ready(), one.log.read_text()
        yield one
    finally:
        one.kill()


@pytest.fixture(scope="module")
def gateway() -> Iterator[OnSocket]:
    """One for tests that leave it alive."""
    with (
        tempfile.TemporaryDirectory(prefix="kg", dir="/tmp") as short,
        serving(Path(short), Path(short) / "http.sock", "--workers", "2") as one,
    ):
        yield one


def test_jobs_flow(gateway: OnSocket) -> None:
    """Enqueue, take, ack; the health check finds the socket."""
    assert gateway.path.stat().st_mode & 0o777 == 0o660
    with gateway.client() as http:
        assert http.post("/queues/q/jobs", json={"n": 1}).status_code == 201
        delivery = http.get("/queues/q/next?timeout=5").json()
        assert delivery["data"] == {"n": 1}
        assert http.post(f"{delivery['lease']['url']}/ack").status_code == 204
    checked = command("healthcheck", KESTREL_GATEWAY_LISTEN=f"unix:{gateway.path}")
    assert (checked.returncode, checked.stdout.decode()) == (0, f"{gateway.path}: 200\n")


def test_a_client_that_leaves_while_it_sends_gives_up_its_turn(gateway: OnSocket) -> None:
    """Its poll ends, although bytes wait unread before its end, so the job goes to the next client."""
    with socket.socket(socket.AF_UNIX) as leaving:
        leaving.connect(str(gateway.path))
        leaving.sendall(b"GET /queues/left/next?timeout=20 HTTP/1.1\r\nHost: localhost\r\n\r\n" + b"x" * 100_000)
        with gateway.client() as http:
            until(lambda: http.get("/queues/left?missing=zero").json()["waiters"])
    with gateway.client() as http:
        until(lambda: not http.get("/queues/left?missing=zero").json()["waiters"])
        assert http.post("/queues/left/jobs", json=1).status_code == 201
        assert http.get("/queues/left/next?timeout=5").json()["attempt"] == 1


def test_the_socket_of_a_running_gateway_is_never_replaced(gateway: OnSocket, short_path: Path) -> None:
    """A second one is refused."""
    second = OnSocket(short_path, gateway.path)
    is_ready = second.ready()
    second.kill()
    assert not is_ready
    said = second.log.read_text()
    assert f"kestrel-gateway: listen: cannot listen on unix:{gateway.path}: Address already in use" in said
    with gateway.client() as http:
        assert http.get("/livez").status_code == 200


def test_the_path_of_a_killed_gateway_is_taken_and_removed_in_the_end(short_path: Path) -> None:
    """A stop in order leaves no path."""
    path = short_path / "http.sock"
    tiny = ("--app", TINY, *NOBODY)
    with serving(short_path, path, *tiny) as killed:
        killed.kill()
    assert path.exists()
    with serving(short_path, path, *tiny) as next_one:
        assert next_one.stop() == 0
    assert not path.exists()


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
    result = command("serve", *NOWHERE, "--listen", listen)
    assert result.returncode == 2
    assert result.stderr.startswith(b"kestrel-gateway: listen: ")
    assert wrong.encode() in result.stderr
