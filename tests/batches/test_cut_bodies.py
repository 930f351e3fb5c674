"""Bodies of lines that end early, in every way: the answer says how many jobs are stored, and the queue has these."""

from __future__ import annotations

import json
import re
import signal
import socket
import struct
import time
from typing import Any

import pytest

from tests.lab.gateway import Running, running
from tests.lab.waiting import until

pytestmark = pytest.mark.usefixtures("ledger_balances")

HEAD = (
    "POST /queues/{}/jobs HTTP/1.1\r\nHost: localhost\r\n"
    "Content-Type: application/x-ndjson\r\nPrefer: return=minimal\r\n"
)
CHUNKED = "Transfer-Encoding: chunked\r\n"


class Upload:
    """A request whose body is sent piece by piece. length: its Content-Length; None: it is chunked."""

    def __init__(self, gateway: Running, queue: str, length: int | None = None) -> None:
        self.queue = queue
        self.gateway = gateway
        self.socket = socket.create_connection(("127.0.0.1", gateway.port), 30)
        self.chunked = length is None
        framing = CHUNKED if self.chunked else f"Content-Length: {length}\r\n"
        self.socket.sendall((HEAD.format(queue) + framing + "\r\n").encode())

    def send(self, data: bytes) -> None:
        self.socket.sendall(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)

    def send_stored(self, first: int, count: int) -> None:
        """Numbers, one a line; returns when they are on the queue."""
        self.send(b"".join(b"%d\n" % number for number in range(first, first + count)))
        with self.gateway.client() as http:
            path = f"/queues/{self.queue}?missing=zero"
            until(lambda: http.get(path).json()["items"] == first + count)

    def answers(self) -> list[tuple[int, dict[str, Any]]]:
        """The status and the problem of each answer, until the gateway closes the connection."""
        received = b""
        while data := self.socket.recv(65536):
            received += data
        self.socket.close()
        found = []
        while received:
            head, _, received = received.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            size = int(length[1]) if length else 0
            body, received = received[:size], received[size:]
            found.append((int(head.split()[1]), json.loads(body or b"{}")))
        return found

    def problem(self) -> dict[str, Any]:
        """The only answer."""
        (answer,) = self.answers()
        assert answer[0] == answer[1]["status"]
        return answer[1]


def stored(http, queue):
    """The numbers on the queue, in order."""
    numbers: list[int] = []
    while (answer := http.get(f"/queues/{queue}/next?max=100&timeout=0&ack=auto")).status_code == 200:
        numbers += [job["data"] for job in answer.json()["jobs"]]
    return numbers


def check(problem, status, code, detail, *, stored):
    """The problem of a body of which so many jobs are stored, none of which failed."""
    assert (problem["status"], problem["code"], problem["detail"]) == (status, code, detail)
    assert (problem["jobs_decided"], problem["jobs_stored"], problem["retryable"]) == (stored, stored, False)
    assert "failures" not in problem


CLOSED = "the client closed its side of the connection before the end of the body; the first 20 jobs are stored"


@pytest.mark.parametrize("length", [None, 10_000], ids=["chunked", "length"])
def test_a_client_that_closes_its_side(gateway, http, queue, length):
    """400 with the number of the jobs that are stored, which must not be sent again."""
    upload = Upload(gateway, queue, length)
    upload.send_stored(0, 12)
    upload.send_stored(12, 8)
    upload.send(b'"the begin')
    upload.socket.shutdown(socket.SHUT_WR)
    check(upload.problem(), 400, "bad-framing", CLOSED, stored=20)
    assert stored(http, queue) == list(range(20))


def test_a_chunk_that_is_malformed(gateway, http, queue):
    """400, as above. No byte behind it is taken for a request."""
    upload = Upload(gateway, queue)
    upload.send_stored(0, 20)
    upload.socket.sendall(b"5\r\n20\n21xx\r\nDELETE /queues/%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % queue.encode())
    upload.socket.shutdown(socket.SHUT_WR)
    problem = upload.problem()
    cause = problem["detail"].rpartition("; ")[0]
    assert cause.startswith("the data of a chunk is not followed by CRLF")
    check(problem, 400, "bad-framing", f"{cause}; the first 20 jobs are stored", stored=20)
    assert stored(http, queue) == list(range(20))


def test_failures_before_the_end(gateway, http, queue):
    """They are listed, and count as decided."""
    upload = Upload(gateway, queue)
    upload.send(b"{\n")
    upload.send_stored(0, 1)
    upload.socket.shutdown(socket.SHUT_WR)
    problem = upload.problem()
    assert problem["detail"].endswith("; 1 of the first 2 jobs was stored")
    assert (problem["jobs_decided"], problem["jobs_stored"], problem["retryable"]) == (2, 1, False)
    assert [(each["job"], each["code"]) for each in problem["failures"]] == [(0, "invalid-body")]
    assert stored(http, queue) == [0]


def test_a_length_that_is_too_short(gateway, http, queue):
    """The line at its end is cut off, and fails; what is behind it is no request."""
    upload = Upload(gateway, queue, 10)
    upload.send(b'0\n1\n2\n[3, 4]\n{"five": 6}\n')
    first, second = upload.answers()
    assert first[0] == 400
    assert first[1]["detail"].startswith("3 of 4 jobs were stored. The first failure: invalid-body: ")
    assert (first[1]["jobs_decided"], first[1]["jobs_stored"]) == (4, 3)
    assert (second[0], second[1]["code"]) == (400, "bad-framing")
    assert stored(http, queue) == [0, 1, 2]


def test_a_body_of_which_nothing_has_come(gateway, http, queue):
    """No job is stored, and the whole request may be sent again."""
    upload = Upload(gateway, queue)
    upload.send(b'"the begin')
    with gateway.client() as other:
        until(lambda: other.get("/metrics").status_code == 200)
    upload.socket.shutdown(socket.SHUT_WR)
    answers = upload.answers()  # none if the request had not begun
    assert [
        (each["code"], each["jobs_stored"], each["detail"].endswith("; no job is stored")) for _, each in answers
    ] in (
        [],
        [("bad-framing", 0, True)],
    )
    assert http.get(f"/queues/{queue}?missing=zero").json()["items"] == 0


@pytest.fixture(scope="module")
def hasty(tmp_path_factory):
    """A gateway that waits 2 seconds for a body, with a log."""
    data = tmp_path_factory.mktemp("hasty") / "data"
    with running(data, "--body-timeout", "2", "--log-format", "json") as gateway:
        yield gateway


def test_a_client_that_sends_nothing_more(hasty):
    """408, as above."""
    upload = Upload(hasty, "silent")
    upload.send_stored(0, 20)
    detail = "no data of the body arrived for 2 s; the first 20 jobs are stored"
    check(upload.problem(), 408, "request-timeout", detail, stored=20)
    with hasty.client() as http:
        assert stored(http, "silent") == list(range(20))


def test_a_body_may_last_longer_than_the_time_limit(hasty):
    """The limit is one between two pieces of it."""
    upload = Upload(hasty, "long")
    began_s = time.monotonic()
    count = 0
    while time.monotonic() - began_s < 4.5:
        upload.send_stored(count, 1)
        count += 1
        time.sleep(0.5)  # a slow producer
    upload.socket.sendall(b"0\r\n\r\n")
    upload.socket.shutdown(socket.SHUT_WR)
    assert upload.answers() == [(204, {})]
    with hasty.client() as http:
        assert stored(http, "long") == list(range(count))


def test_a_connection_that_is_reset(hasty):
    """Nobody gets an answer: the line in the log says how many jobs are stored."""
    upload = Upload(hasty, "reset")
    upload.send_stored(0, 20)
    upload.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    upload.socket.close()

    def lines():
        found = [json.loads(line) for line in hasty.log.read_text().splitlines()]
        return [each for each in found if each.get("queue") == "reset" and each["method"] == "POST"]

    until(lambda: len(lines()) == 1)
    assert [(each["code"], each["status"], each["stored"]) for each in lines()] == [("client-gone", 0, 20)]
    with hasty.client() as http:
        assert stored(http, "reset") == list(range(20))


def test_a_shutdown(tmp_path):
    """The client gets a moment for the rest of the body, and then 503 with the number of the jobs that are stored."""
    with running(tmp_path / "data") as gateway:
        upload = Upload(gateway, "q")
        upload.send_stored(0, 20)
        gateway.process.send_signal(signal.SIGTERM)
        detail = "the gateway is shutting down; the first 20 jobs are stored"
        check(upload.problem(), 503, "draining", detail, stored=20)
        assert gateway.process.wait(20) == 0
        gateway.start()
        with gateway.client() as http:
            assert stored(http, "q") == list(range(20))
