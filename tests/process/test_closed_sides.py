"""A client closes its side: what it asked completely is answered, what waits for it is over, no job is stranded."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Callable

import httpx
import pytest

from tests.lab.examples import examples, some
from tests.lab.gateway import Running
from tests.lab.waiting import until
from tests.process.serving import Server, problem, serving

ROUNDS = examples(50, fewest=16)
PARK = b"GET /park HTTP/1.1\r\nHost: a\r\n\r\n"
ECHO = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
PLAIN = b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"
BODYLESS = b"POST /echo HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
MALFORMED = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    b"GET / / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\r\nGET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
]


@pytest.mark.parametrize(
    ("how", "size"), some([("FIN", 1_000_000), ("FIN", 100_000), ("RST", 100_000), ("RST", 1_000_000)], fewest=2)
)
def test_no_job_is_stranded_behind_a_large_pipelined_request(
    gateway: Running, http: httpx.Client, queue: str, how: str, size: int
) -> None:
    """A poll with more behind it than is held, then a close: the job that comes is the next consumer's at once."""
    poll = f"GET /queues/{queue}/next?timeout=20&lease=600 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    large = b"POST /queues/other/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
    for turn in range(ROUNDS):
        with socket.create_connection(("127.0.0.1", gateway.port)) as client:
            client.sendall(poll + large)
            until(lambda: http.get(f"/queues/{queue}?missing=zero").json()["waiters"])
            if how == "RST":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert http.post(f"/queues/{queue}/jobs", content=b"%d" % turn).status_code == 201
        answer = http.get(f"/queues/{queue}/next?timeout=2&lease=600")
        assert answer.status_code == 200, f"stranded in round {turn}"
        assert http.post(answer.json()["lease"]["url"] + "/ack").status_code == 204


def _half_closed(port: int, request: bytes) -> bytes:
    """Sends, closes the sending side, and reads to the end. The request and the end travel in one segment."""
    with socket.create_connection(("127.0.0.1", port), 5) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while data := client.recv(65536):
            answer += data
        return answer


def test_enqueue_ack_and_stats_are_answered_after_a_half_close(
    gateway: Running, http: httpx.Client, queue: str
) -> None:
    """`nc -N`: complete requests get their answers, also several in one go; a poll counts as gone and takes no job."""
    enqueue = f"POST /queues/{queue}/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\n\r\n1".encode()
    stats = f"GET /queues/{queue} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    answer = _half_closed(gateway.port, enqueue)
    assert answer.startswith(b"HTTP/1.1 201 ")
    assert b"connection: close" in answer
    answers = _half_closed(gateway.port, enqueue + stats + enqueue)
    assert answers.count(b"HTTP/1.1 201 ") == 2
    assert answers.count(b"HTTP/1.1 200 ") == 1
    poll = f"GET /queues/{queue}/next?timeout=5 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    assert _half_closed(gateway.port, poll) == b""
    lease = http.get(f"/queues/{queue}/next").json()["lease"]["url"]
    ack = f"POST {lease}/ack HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    assert _half_closed(gateway.port, ack).startswith(b"HTTP/1.1 204 ")
    assert http.get(f"/queues/{queue}").json()["items"] == 2
    assert _half_closed(gateway.port, enqueue[:-1]) == b""
    assert http.get(f"/queues/{queue}").json()["items"] == 2


def test_half_close_ends_a_parked_request_and_what_is_behind_it() -> None:
    """A poll that is parked already is over with the client's side, and so is what it had pipelined."""

    async def test(server: Server) -> None:
        for turn, behind in enumerate((b"", ECHO, ECHO[:40]), 1):
            async with server.client() as client:
                client.send(PARK + behind)
                await server.counted("parked", turn)
                client.writer.write_eof()
                assert await client.rest() == b""
                await server.counted("unreached", turn)

    serving(test)


def test_requests_held_behind_a_half_close_are_served_in_order() -> None:
    """All that came completely is answered, then the connection closes; the incomplete last one is not."""

    async def test(server: Server) -> None:
        for last in (b"", ECHO[:-1], ECHO[:20]):
            async with server.client() as client:
                client.send(ECHO * 50 + last)
                client.writer.write_eof()
                answers = await client.rest()
                assert answers.count(b"HTTP/1.1 200 ") == answers.count(b"\r\n\r\nabc") == 50

    serving(test)


@pytest.mark.parametrize(
    "body",
    [b'{"a":1}', b"hello", b"G", b"GETS x", b"abcGET / HTTP/1.1\r\n", b"GET is no request\r\n", b"\x00\x01"],
)
def test_body_without_a_length_stores_nothing(
    gateway: Running, http: httpx.Client, new_queue: Callable[[], str], body: bytes
) -> None:
    """Bytes directly behind a POST that announced none are no request: 400, and no empty job is stored."""
    queue = new_queue()
    head = f"POST /queues/{queue}/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    answer = gateway.raw(head + body) if body != b"G" else gateway.raw(head + b"G\r\n")
    assert problem(answer)["code"] == "bad-framing"
    assert http.get(f"/queues/{queue}").status_code == 404


@pytest.mark.parametrize("body", [b"settled, thank you", b"BAD\r\n\r\n"])
def test_body_without_a_length_settles_nothing(gateway: Running, http: httpx.Client, queue: str, body: bytes) -> None:
    """A request that is refused for the bytes behind it is not run: the lease goes on."""
    http.post(f"/queues/{queue}/jobs", content=b"1")
    lease = http.get(f"/queues/{queue}/next?timeout=2").json()["lease"]["url"]
    head = f"POST {lease}/ack HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    assert problem(gateway.raw(head + body))["code"] == "bad-framing"
    assert http.post(lease + "/extend", json={"lease": 60}).status_code == 200


@pytest.mark.parametrize("first", [PLAIN, BODYLESS, ECHO, CHUNKED], ids=["GET", "bodyless", "length", "chunked"])
@pytest.mark.parametrize("second", MALFORMED)
def test_malformed_request_is_answered_after_the_one_before_it(first: bytes, second: bytes) -> None:
    """In one segment as in two: both answers come, in order, and the connection closes."""

    async def test(server: Server) -> None:
        for pieces in ([first + second], [first, second]):
            async with server.client() as client:
                for piece in pieces:
                    client.send(piece)
                    await client.writer.drain()
                answer = await client.rest()
                assert re.findall(rb"HTTP/1\.1 ([0-9]+)", answer) == [b"200", b"400"], pieces

    serving(test)


def test_post_without_a_body_is_an_empty_job(gateway: Running, http: httpx.Client, queue: str) -> None:
    """No length and no body is a job of no bytes, also with the next request right behind it."""
    head = f"POST /queues/{queue}/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode()
    answer = gateway.raw(head + b"\r\n\r\n\r\n" + head + b"Connection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 201 ") == 2
    assert http.get(f"/queues/{queue}").json()["items"] == 2


@pytest.mark.parametrize(
    ("behind", "status", "code"),
    [
        (b"nonsense\r\n\r\n", 400, "bad-framing"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "bad-framing"),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"h%d: 1\r\n" % n for n in range(251)) + b"\r\n",
            431,
            "headers-too-large",
        ),
    ],
)
def test_a_malformed_request_behind_one_that_fails(gateway: Running, behind: bytes, status: int, code: str) -> None:
    """Its answer has its own problem, not that of the request before it."""
    answers = gateway.raw(b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n" + behind).split(b"HTTP/1.1 ")
    assert [each[:3] for each in answers[1:]] == [b"404", b"%d" % status]
    assert problem(b"HTTP/1.1 " + answers[2])["code"] == code
