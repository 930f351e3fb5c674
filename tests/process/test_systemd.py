"""Under systemd: the gateway serves a socket that it inherits, and says when it is ready and when it stops."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import plain
from tests.lab.forkserver import ForkedProcess
from tests.lab.lifeline import lifeline, tied
from tests.lab.waiting import until

ROOT = Path(__file__).resolve().parents[2]
TINY = ("--app", "tests.process.tiny_app:create_app", "--kestrel", "127.0.0.1:1")


def start(
    folder: Path, listener: socket.socket, *flags: str, count: str = "1", notified: Path | None = None
) -> subprocess.Popen[str]:
    """`serve` as systemd starts it: the socket is descriptor 3."""
    serve = ["serve", "--data", str(folder / "data"), "--log-level", "warning", *flags]
    return ForkedProcess(
        tied("tests.process.as_systemd", str(listener.fileno()), count, *serve),
        stdin=lifeline(),
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=[listener.fileno()],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | ({"NOTIFY_SOCKET": str(notified)} if notified else {}),
    )


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket on a free port of loopback, as a socket unit makes it."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def test_it_serves_the_socket_and_tells_its_states(short_path: Path, listener: socket.socket) -> None:
    """A request that came before the start is answered. READY=1 comes once it serves, STOPPING=1 when it is to end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(short_path / "notify"))
        manager.settimeout(30)
        port = listener.getsockname()[1]
        early = socket.create_connection(("127.0.0.1", port), 30)
        early.sendall(b"GET /pid HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        with start(short_path, listener, *TINY, notified=short_path / "notify") as process, early:
            try:
                assert manager.recv(100) == b"READY=1"
                assert early.recv(12) == b"HTTP/1.1 200"
                with socket.create_connection(("127.0.0.1", port), 30) as parked:
                    parked.sendall(b"GET /park HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                    until(lambda: "parked=1" in plain.get(f"http://127.0.0.1:{port}/seen").text)
                    process.send_signal(signal.SIGTERM)
                    assert manager.recv(100) == b"STOPPING=1"
                    assert parked.recv(12) == b"HTTP/1.1 204"
                assert process.wait(20) == 0
            finally:
                process.kill()


def test_sockets_that_cannot_be_used_are_refused(short_path: Path, listener: socket.socket) -> None:
    """Two sockets, a datagram socket, and an address that other hosts reach without keys: one line each."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.create_server(("0.0.0.0", 0)) as exposed,
    ):
        for sock, count, wrong in (
            (listener, "2", "systemd passed 2 sockets: name one ListenStream= in the socket unit"),
            (datagrams, "1", "systemd passed a datagram socket: name a ListenStream= in the socket unit"),
            (exposed, "1", "systemd passed a socket on 0.0.0.0, which is not a loopback address"),
        ):
            with start(short_path, sock, count=count) as process:
                _, said = process.communicate(timeout=30)
            assert process.returncode == 1
            (line,) = said.splitlines()
            assert line.startswith(f"kestrel-gateway: listen: {wrong}")


def test_the_unit_leaves_time_for_the_drain(root: Path) -> None:
    """systemd kills what is left after TimeoutStopSec: longer than the grace and the broker's end."""
    from gateway.process.supervisor import BROKER_END_S, END_S
    from gateway.settings import Settings

    unit = (root / "deploy" / "systemd" / "kestrel-gateway.service").read_text()
    (limit,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert int(limit) > Settings().grace_s + 2 * END_S + BROKER_END_S


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_units(root: Path, tmp_path: Path) -> None:
    """No line of a unit is wrong, and the service is confined: systemd rates its exposure below 2 of 10."""
    for name in ("kestrel-gateway.service", "kestrel-gateway.socket", "kestrel-gateway-worker@.service"):
        text = (root / "deploy" / "systemd" / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/kestrel-gateway/bin/kestrel-gateway", sys.executable))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, tmp_path.iterdir())],
        capture_output=True,
        text=True,
        check=False,
    )
    assert [line for line in verified.stderr.splitlines() if str(tmp_path) in line] == []
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", tmp_path / "kestrel-gateway.service"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert rated.returncode == 0, rated.stdout
