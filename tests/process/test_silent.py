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

from tests.lab.examples import examples
from tests.lab.gateway import Running
from tests.lab.waiting import until
from tests.process.test_tls import RunningTls, files, flags_of, trusting  # noqa: F401 (a fixture)

MANY = int(os.environ.get("KESTREL_GATEWAY_TEST_SILENT", examples(2000)))
"""12000 is the long form."""
STEPS = 10
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


def start(data: Path, kind: str, certificate: Path, *flags: str) -> Running:
    if kind == "tls":
        return RunningTls(data, trusting(certificate), *flags_of(certificate), *flags)
    return Running(data, *flags)


def client(gateway: Running, certificate: Path) -> httpx.Client:
    """It makes a connection for each request."""
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.Client(base_url=gateway.url, verify=trusting(certificate), timeout=10, limits=limits)


@pytest.fixture(scope="module", params=["tls", "plain"])
def limited(tmp_path_factory: pytest.TempPathFactory, files: Path, request) -> Iterator[Running]:  # noqa: F811
    """A gateway that gives clients little."""
    data = tmp_path_factory.mktemp("limited") / "data"
    gateway = start(data, request.param, files, "--max-connections", "30", "--header-timeout", "2")
    yield gateway
    gateway.kill()


def test_silent_connections_count_and_end(limited: Running, files: Path) -> None:  # noqa: F811
    """At --max-connections the oldest makes room for a new one; the others end when the time for a head is over."""
    with client(limited, files) as http, silent(limited.port, 100) as connections:
        for _ in range(5):
            assert http.get("/queues").status_code == 200
        left = sum(map(is_open, connections))
        assert 0 < left <= 30
        assert not any(map(is_open, connections[:60])), "the oldest are not closed first"
        until(lambda: not any(map(is_open, connections)))
        assert http.get("/queues").status_code == 200


@pytest.mark.parametrize("limited", ["tls"], indirect=True)
def test_a_handshake_may_come_in_pieces(limited: Running, files: Path) -> None:  # noqa: F811
    """A slow client is served as long as its handshake is over in time; one that needs longer is not."""
    for pause_s, served in ((0.0, True), (0.1, False)):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        handshake = trusting(files).wrap_bio(incoming, outgoing, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            handshake.do_handshake()
        with socket.create_connection(("127.0.0.1", limited.port), 10) as connection:
            answer = b""
            with contextlib.suppress(ConnectionError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for byte in outgoing.read():
                    connection.sendall(bytes([byte]))
                    time.sleep(pause_s)
                answer = connection.recv(65536)
            assert bool(answer) == served


@pytest.mark.parametrize("kind", ["tls", "plain"])
def test_many_silent_connections_slow_nobody(tmp_path: Path, files: Path, kind: str) -> None:  # noqa: F811
    """Hundreds of them, in CI thousands; a normal client makes a new connection for each request."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    assert hard > MANY + 500, "too few descriptors for this test (ulimit -Hn)"
    gateway = start(tmp_path / "data", kind, files)
    took_s: list[float] = []
    try:
        with client(gateway, files) as http, contextlib.ExitStack() as stack:
            http.post("/queues/q/jobs", json=1)
            for _ in range(STEPS):
                stack.enter_context(silent(gateway.port, MANY // STEPS))
                for method, path in (("POST", "/queues/q/jobs"), ("GET", "/queues/q/next?timeout=0&lease=1")):
                    began = time.monotonic()
                    assert http.request(method, path, content=b"1" if method == "POST" else None).status_code < 300
                    took_s.append(time.monotonic() - began)
        slow = [each for each in took_s if each > SLOW_S]
        assert len(slow) < len(took_s) / 4, "a busy machine may delay a few"
    finally:
        gateway.kill()
