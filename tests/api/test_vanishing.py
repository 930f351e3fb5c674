"""Clients that disconnect: no job is taken for a client that is gone, and none is lost."""

import contextlib
import os
import socket
import struct
import threading
import time

import pytest

from tests.api.test_jobs import waiters
from tests.lab.examples import examples
from tests.lab.waiting import until

pytestmark = pytest.mark.usefixtures("ledger_balances")


def park(connection: socket.socket, queue: str, behind: bytes = b"", query: str = "timeout=30") -> None:
    """Sends a poll, and bytes behind it."""
    connection.sendall(f"GET /queues/{queue}/next?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() + behind)


def reset(connection: socket.socket) -> None:
    """Closes with RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


TIMES = int(os.environ.get("KESTREL_GATEWAY_TEST_VANISHING_TIMES", examples(30, fewest=12)))
LATE_S = 0.3
PAUSE_S = 0.002
"""As many jobs meet a poll that ends as without it; two busy threads would only take the CPU from the consumer."""
CLOSERS = {"FIN": socket.socket.close, "RST": reset}
BEHIND = {
    "nothing": b"",
    "a request": b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "half a request": b"GET /livez HTT",
    "a flood": b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n" * 4000,
}


@pytest.mark.parametrize("close", CLOSERS.values(), ids=CLOSERS)
@pytest.mark.parametrize("behind", [BEHIND["nothing"], BEHIND["a request"]], ids=["plain", "pipelined"])
def test_a_poll_that_vanished_strands_no_job(gateway, http, queue, close, behind):
    """Many times: a client parks, goes away, a job is enqueued; the next consumer has it at once.

    A busy machine may delay a few. Where a poll keeps its place, each second one is late.
    """
    slow = []
    for number in range(TIMES):
        connection = gateway.connect()
        park(connection, queue, behind)
        if number % 2:
            until(lambda: waiters(http, queue) >= 1)
        close(connection)
        http.post(f"/queues/{queue}/jobs", json=number)
        began = time.monotonic()
        answer = http.get(f"/queues/{queue}/next?timeout=5")
        took_s = time.monotonic() - began
        assert answer.status_code == 200, number
        assert answer.json()["data"] == number
        http.post(answer.json()["lease"]["url"] + "/ack")
        if took_s > LATE_S:
            slow.append(took_s)
    assert len(slow) < TIMES / 4, slow


@pytest.mark.parametrize("close", CLOSERS.values(), ids=CLOSERS)
@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
def test_the_gateway_sees_a_client_leave_whatever_it_sent(gateway, http, queue, close, behind):
    """Also with a request, half of one or a flood pipelined behind the poll, the poll ends with its client."""
    connection = gateway.connect()
    connection.settimeout(0.5)
    with contextlib.suppress(TimeoutError):
        park(connection, queue, behind)
    until(lambda: waiters(http, queue) >= 1)
    close(connection)
    deadline_s = time.monotonic() + 60
    while True:
        http.post(f"/queues/{queue}/jobs", json="x")
        answer = http.get(f"/queues/{queue}/next?timeout=0.2")
        if answer.status_code == 200:
            break
        assert time.monotonic() < deadline_s
    http.post(answer.json()["lease"]["url"] + "/ack")


def test_parked_polls_are_served_in_order(gateway, http, queue):
    """Jobs go to polls in the order they arrived, over 32 Kestrel connections."""
    count = 48
    polls = []
    for number in range(count):
        connection = gateway.connect()
        park(connection, queue)
        polls.append(connection)
        if number % 24 == 23:
            until(lambda: http.get("/readyz").status_code == 200)
    until(lambda: waiters(http, queue) >= 1)
    assert waiters(http, queue) <= 32
    for number in range(count):
        http.post(f"/queues/{queue}/jobs", content=f'"job {number}."', headers={"content-type": "application/json"})
    for number, connection in enumerate(polls):
        connection.settimeout(10)
        assert f"job {number}.".encode() in connection.recv(65536), number
        connection.close()
    assert http.delete(f"/queues/{queue}").json()["leases_ended"] == count


def test_a_half_sent_job_is_never_stored(gateway, http, queue):
    """A producer that dies in the middle of its body has stored nothing."""
    for close in CLOSERS.values():
        connection = gateway.connect()
        connection.sendall(
            f"POST /queues/{queue}/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf".encode()
        )
        close(connection)
    assert http.get(f"/queues/{queue}/next?timeout=0.3").status_code == 204


def test_a_consumer_that_dies_with_a_lease_costs_its_lease_only(gateway, http, queue):
    """A client that vanishes after the answer keeps its lease until it ends, then the job is the next one's."""
    http.post(f"/queues/{queue}/jobs", json="x")
    connection = gateway.connect()
    connection.sendall(f"GET /queues/{queue}/next?lease=1 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert b"200 OK" in connection.recv(65536)
    connection.close()
    assert http.get(f"/queues/{queue}/next?timeout=5").json()["attempt"] == 2


@pytest.mark.parametrize("total", [15, pytest.param(150, marks=pytest.mark.slow)])
def test_many_polls_come_and_go(gateway, http, queue, total):
    """Polls that come and go from many threads while jobs flow: every job is delivered exactly once, or is dead.

    A job whose answer was on its way when its poll ended comes back with the lease, after 5 seconds. After the most
    attempts it is among the dead letters.
    """
    stop = threading.Event()

    def flicker():
        while not stop.wait(PAUSE_S):
            connection = gateway.connect()
            park(connection, queue, query="timeout=30&lease=5")
            reset(connection)

    flickering = [threading.Thread(target=flicker) for _ in range(2)]
    for each in flickering:
        each.start()
    seen = []
    try:
        for number in range(total):
            http.post(f"/queues/{queue}/jobs", json=number)
            answer = http.get(f"/queues/{queue}/next?timeout=10&lease=5")
            if answer.status_code == 200:
                seen.append(answer.json()["data"])
                http.post(answer.json()["lease"]["url"] + "/ack")
    finally:
        stop.set()
        for each in flickering:
            each.join(10)
    with gateway.client() as last:
        assert last.get("/livez").status_code == 200  # its connection is accepted after all of theirs

    def letters():
        found = http.get(f"/queues/{queue}/dead-letters")
        return found.json()["items"] if found.status_code == 200 else 0

    deadline_s = time.monotonic() + 60
    while len(seen) + letters() < total and time.monotonic() < deadline_s:
        answer = http.get(f"/queues/{queue}/next?timeout=1")
        if answer.status_code == 200:
            seen.append(answer.json()["data"])
            http.post(answer.json()["lease"]["url"] + "/ack")
    dead = []
    if len(seen) < total:
        letter = http.get(f"/queues/{queue}/dead-letters/peek").json()
        assert letter["attributes"]["deadreason"] == "max-attempts"
        for _ in range(http.post(f"/queues/{queue}/redrive").json()["redriven"]):
            answer = http.get(f"/queues/{queue}/next?timeout=1").json()
            dead.append(answer["data"])
            http.post(answer["lease"]["url"] + "/ack")
    assert sorted(seen + dead) == list(range(total))
