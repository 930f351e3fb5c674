"""Python's HTTP clients, closing at awkward moments. A process of its own: `PORT QUEUE ROUNDS SEED`; prints JSON.

A round parks a poll, enqueues a job a moment later, and ends the poll at an instant of its own, or reads the answer
and acks it now and then. Prints `{"stored": [job ids], "acked": [job ids], "read": answers read whole}`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.lab.http import HttpClient
from tests.lab.ports import HOST

AT_ONCE = 8
LEASE_S = 2
LATEST_S = 0.04


class Closer:
    """One client program's rounds. Lists are appended to by many threads.

    begins_s: how long the program takes until its poll arrives. A job comes up to LATEST_S later.
    """

    def __init__(self, port: int, queue: str, begins_s: float = 0.0) -> None:
        self.begins_s = begins_s
        self.base = f"http://{HOST}:{port}"
        self.port = port
        self.path = f"/queues/{queue}/next?timeout=5&lease={LEASE_S}"
        self.jobs = f"/queues/{queue}/jobs"
        self.stored: list[str] = []
        self.acked: list[str] = []
        self.read = 0

    def round(self, number: int, seed: int, poll: Callable[[Closer, float], str | None]) -> None:
        """poll: asks for a job and gives up after so many seconds; the whole answer, or None."""
        chance = random.Random(f"{seed} {number}")
        producer = threading.Timer(chance.uniform(0, self.begins_s + LATEST_S), self._enqueue, (number,))
        producer.start()
        answer = poll(self, chance.choice([chance.uniform(0.001, LATEST_S), chance.uniform(0.001, 2 * LATEST_S)]))
        if answer:
            self.read += 1
            job = json.loads(answer)
            if chance.random() < 0.7:
                self._ack(job)
        producer.join()

    def _enqueue(self, number: int) -> None:
        producer = HttpClient(self.port, 30)
        answer = producer.ask("POST", self.jobs, {"number": number})
        producer.close()
        if answer.status == 201:
            self.stored.append(answer.json()["id"])

    def _ack(self, job: dict[str, object]) -> None:
        lease = job["lease"]
        assert isinstance(lease, dict)
        consumer = HttpClient(self.port, 30)
        if consumer.ask("POST", f"{lease['url']}/ack").status == 204:
            self.acked.append(str(job["id"]))
        consumer.close()


def with_httpx(closer: Closer, limit_s: float) -> str | None:
    """httpx, whose time-out closes the connection."""
    with contextlib.suppress(httpx.TransportError):
        answer = httpx.get(closer.base + closer.path, timeout=limit_s, verify=False)
        return answer.text if answer.status_code == 200 else None
    return None


def with_urllib(closer: Closer, limit_s: float) -> str | None:
    """urllib's own time-out."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        with urllib.request.urlopen(closer.base + closer.path, timeout=limit_s) as answer:
            return str(answer.read().decode()) if answer.status == 200 else None
    return None


def with_half_an_answer(closer: Closer, limit_s: float) -> None:
    """http.client: reads the first bytes of an answer and hangs up."""
    connection = http.client.HTTPConnection(HOST, closer.port, timeout=limit_s)
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", closer.path)
        connection.getresponse().read(10)
    connection.close()


def with_half_a_request(closer: Closer, limit_s: float) -> None:
    """http.client: hangs up before its request is complete."""
    connection = http.client.HTTPConnection(HOST, closer.port, timeout=limit_s)
    with contextlib.suppress(OSError):
        connection.connect()
        connection.sock.sendall(f"GET {closer.path} HTTP/1.1\r\nHost: loc".encode())
        time.sleep(limit_s)
    connection.close()


def with_a_second_request_behind(closer: Closer, limit_s: float) -> None:
    """Raw: a pipelined request behind the poll, then the end."""
    connection = http.client.HTTPConnection(HOST, closer.port, timeout=limit_s)
    with contextlib.suppress(OSError):
        connection.connect()
        request = "GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        connection.sock.sendall((request.format(closer.path) + request.format("/livez")).encode())
        time.sleep(limit_s)
    connection.close()


WAYS = (with_httpx, with_urllib, with_half_an_answer, with_half_a_request, with_a_second_request_behind)


def main() -> None:
    port, queue, rounds, seed = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    closer = Closer(port, queue)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        work = [pool.submit(closer.round, number, seed, WAYS[number % len(WAYS)]) for number in range(rounds)]
        for each in work:
            each.result()
    print(json.dumps({"stored": closer.stored, "acked": closer.acked, "read": closer.read}))


if __name__ == "__main__":
    main()
