"""Clients that connect and send nothing, with TLS and without: a deadline and a limit apply, others are not slowed."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.lab.gateway import Running
from tests.process.test_tls import RunningTls, files, flags_of, trusting  # noqa: F401 (a fixture)

MANY = int(os.environ.get("KESTREL_GATEWAY_TEST_SILENT", "2000"))
"""12000 is the long form."""
SLOW_S = 1.0


@contextlib.contextmanager
def silent(port: int, count: int) -> Iterator[list[socket.socket]]:
    """So many connections that never send a byte."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(("127.0.0.1", port), 10)) for _ in range(count)]


def is_open(connection: socket.socket) -> bool:
    """Whether the server has not closed it yet."""
    connection.setblocking(False)
    try:
        return bool(connection.recv(1))
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


def started(data: Path, kind: str, certificate: Path, *flags: str) -> tuple[Running, httpx.Client]:
    """A gateway, and a client of it that makes a connection for each request."""
    verify = trusting(certificate)
    gateway = RunningTls(data, verify, *flags_of(certificate), *flags) if kind == "tls" else Running(data, *flags)
    limits = httpx.Limits(max_keepalive_connections=0)
    return gateway, httpx.Client(base_url=gateway.url, verify=verify, timeout=10, limits=limits)


@pytest.mark.parametrize("kind", ["tls", "plain"])
def test_silent_connections_count_and_end(tmp_path: Path, files: Path, kind: str) -> None:  # noqa: F811
    """At --max-connections the oldest makes room for a new one; the others end when the time for a head is over."""
    gateway, http = started(tmp_path / "data", kind, files, "--max-connections", "30", "--header-timeout", "2")
    try:
        with http, silent(gateway.port, 100) as connections:
            for _ in range(5):
                assert http.get("/queues").status_code == 200
            left = sum(map(is_open, connections))
            assert 0 < left <= 30
            assert not any(map(is_open, connections[:60])), "the oldest are not closed first"
            deadline_s = time.monotonic() + 60
            while any(map(is_open, connections)):
                assert time.monotonic() < deadline_s
                time.sleep(0.05)
            assert http.get("/queues").status_code == 200
    finally:
        gateway.kill()


def test_a_handshake_may_come_in_pieces(tmp_path: Path, files: Path) -> None:  # noqa: F811
    """A slow client is served as long as its handshake is over in time; one that needs longer is not."""
    gateway, http = started(tmp_path / "data", "tls", files, "--header-timeout", "2")
    http.close()
    try:
        for pause_s, served in ((0.0, True), (0.1, False)):
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            client = trusting(files).wrap_bio(incoming, outgoing, server_hostname="localhost")
            with pytest.raises(ssl.SSLWantReadError):
                client.do_handshake()
            with socket.create_connection(("127.0.0.1", gateway.port), 10) as connection:
                answer = b""
                with contextlib.suppress(ConnectionError):
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    for byte in outgoing.read():
                        connection.sendall(bytes([byte]))
                        time.sleep(pause_s)
                    answer = connection.recv(65536)
                assert bool(answer) == served
    finally:
        gateway.kill()


@pytest.mark.parametrize("kind", ["tls", "plain"])
def test_thousands_of_silent_connections_slow_nobody(tmp_path: Path, files: Path, kind: str) -> None:  # noqa: F811
    """A normal client, which makes a new connection for each request, is not affected."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    assert hard > MANY + 500, "too few descriptors for this test (ulimit -Hn)"
    gateway, http = started(tmp_path / "data", kind, files)
    took_s: list[float] = []
    try:
        with http, contextlib.ExitStack() as stack:
            http.post("/queues/q/jobs", json=1)
            for _ in range(MANY // 200):
                stack.enter_context(silent(gateway.port, 200))
                for method, path in (("POST", "/queues/q/jobs"), ("GET", "/queues/q/next?timeout=0&lease=1")):
                    began = time.monotonic()
                    assert http.request(method, path, content=b"1" if method == "POST" else None).status_code < 300
                    took_s.append(time.monotonic() - began)
        slow = [each for each in took_s if each > SLOW_S]
        assert len(slow) < len(took_s) / 4, "a busy machine may delay a few"
    finally:
        gateway.kill()
