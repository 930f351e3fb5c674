"""Streams over TLS, and the number of open streams."""

from __future__ import annotations

import shutil
import socket

import httpx
import pytest

from tests.batches.test_cut_bodies import HEAD
from tests.lab.waiting import until
from tests.process.test_tls import RunningTls, files, flags_of, trusting
from tests.streams.reader import StreamReader
from tests.streams.test_stream import put, take

__all__ = ["files"]

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl to make a certificate")


LARGE = "x" * 70_000
"""Taken alone: of smaller jobs a stream takes up to 64 KiB at a time."""
WINDOW_BYTES = 10 * len(LARGE)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory, files):
    trusted = trusting(files)
    folder = tmp_path_factory.mktemp("streams")
    flags = ("--stream-keepalive", "0.2", "--body-timeout", "1", "--stream-window-bytes", str(WINDOW_BYTES))
    made = RunningTls(folder / "data", trusted, *flags_of(files), *flags)
    yield made
    made.kill()


@pytest.fixture
def http(gateway):
    with httpx.Client(base_url=gateway.url, verify=gateway.verify, timeout=30) as client:
        yield client


def open_streams(http):
    """The figure of the metric."""
    lines = http.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("kestrel_gateway_streams_open{"))


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/event-stream"])
def test_jobs_come_and_are_settled(gateway, http, queue, accept):
    """As without TLS: lines at once, slots that become free, keepalive lines; what is not settled comes again."""
    put(http, queue, *range(5))
    until(lambda: open_streams(http) == 0)
    with StreamReader(gateway, f"/queues/{queue}/stream?window=2", accept=accept) as stream:
        stream.next("open")
        jobs = stream.jobs(2)
        assert [job["data"] for job in jobs] == [0, 1]
        assert open_streams(http) == 1
        settled = http.post("/leases/settle", json={"acks": [job["lease"]["id"] for job in jobs]})
        assert settled.status_code == 200
        assert [job["data"] for job in stream.jobs(2)] == [2, 3]
        assert stream.line() == {"type": "keepalive"}
    until(lambda: open_streams(http) == 0)
    until(lambda: http.get(f"/queues/{queue}").json()["open_reads"] == 0)
    assert [take(http, queue) for _ in range(3)] == [(2, 2), (3, 2), (4, 1)]


def test_a_client_that_does_not_read(gateway, http, queue):
    """No more is taken for it than its window holds; it gets everything once it reads and settles."""
    put(http, queue, *[LARGE] * 20)
    with StreamReader(gateway, f"/queues/{queue}/stream?window=20&lease_seconds=600") as stream:
        held = -1
        while (now := http.get(f"/queues/{queue}").json()["open_reads"]) != held or not held:
            held = now
        assert held * len(LARGE) <= WINDOW_BYTES + len(LARGE)
        stream.next("open")
        for _ in range(20):
            assert http.post(stream.next()["lease"]["url"] + "/ack").status_code == 204
    assert http.get(f"/queues/{queue}").json()["backlog"] == 0


def test_lines_whose_end_does_not_come(gateway, http, queue):
    """The time limit is answered with the number of stored jobs, over TLS, too."""

    def body():
        yield b"1\n2\n"
        until(lambda: http.get(f"/queues/{queue}?missing=zero").json()["items"] == 2)
        yield b'"never complete'
        until(lambda: answered(gateway))

    def answered(gateway):
        return "no data of the body arrived" in gateway.log.read_text() or "request-timeout" in gateway.log.read_text()

    headers = dict(line.split(": ") for line in HEAD.format(queue).split("\r\n")[2:] if line)
    with httpx.Client(base_url=gateway.url, verify=gateway.verify, timeout=30) as other:
        answer = other.post(f"/queues/{queue}/jobs", content=body(), headers=headers)
    assert (answer.status_code, answer.json()["jobs_stored"], answer.json()["retryable"]) == (408, 2, False)


def test_a_client_that_closes_a_connection_in_the_middle_of_its_lines(gateway, http, queue):
    """The jobs of the complete lines are stored; over TLS there is no answer."""
    head = HEAD.format(queue) + "Transfer-Encoding: chunked\r\n\r\n4\r\n1\n2\n\r\n"
    with gateway.verify.wrap_socket(
        socket.create_connection(("127.0.0.1", gateway.port), 30), server_hostname="localhost"
    ) as client:
        client.sendall(head.encode())
        until(lambda: http.get(f"/queues/{queue}?missing=zero").json()["items"] == 2)
        client.sendall(b'5\r\n"thre\r\n')
        client.shutdown(socket.SHUT_WR)
    until(lambda: f"queue={queue} stored=2 code=client-gone" in gateway.log.read_text())
    assert http.get(f"/queues/{queue}").json()["items"] == 2
