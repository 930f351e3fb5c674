"""Many leases and polls on one connection to the embedded broker, while processes are frozen and killed.

Sizes: KESTREL_GATEWAY_TEST_LINK_LEASES and KESTREL_GATEWAY_TEST_LINK_POLLS; the long form has 5,000 and 2,500. All
clients are raw sockets of this process. A client chooses its worker: it connects while the other one is frozen.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab.gateway import Running, running
from tests.lab.http import HttpAnswer, HttpClient
from tests.lab.processes import children_of
from tests.lab.waiting import until

LEASES = int(os.environ.get("KESTREL_GATEWAY_TEST_LINK_LEASES", "200"))
POLLS = int(os.environ.get("KESTREL_GATEWAY_TEST_LINK_POLLS", "100"))
QUEUES = 10
WAITS = 8
"""The default of --kestrel-waits."""
LONG_S = 120.0
FLAGS = ("--max-timeout", "600", "--kestrel-command-timeout", "5")


class TwoWorkers:
    """A gateway with two workers; `chosen` accepts what is connected inside of `only`."""

    def __init__(self, gateway: Running) -> None:
        self.gateway = gateway
        self.workers = sorted(
            pid for pid, command in children_of(gateway.process.pid).items() if "gateway.process.worker" in command
        )
        self._clients: list[HttpClient] = []
        self.holder: HttpClient | None = None  # the connection over which worker 0 gave its leases

    @contextlib.contextmanager
    def only(self, number: int) -> Iterator[None]:
        """The other worker is frozen."""
        other = self.workers[1 - number]
        os.kill(other, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(other, signal.SIGCONT)

    def client(self) -> HttpClient:
        """A connection that has been accepted."""
        client = HttpClient(self.gateway.port, LONG_S)
        assert client.ask("GET", "/livez").status == 200
        self._clients.append(client)
        return client

    def close(self) -> None:
        for client in self._clients:
            client.close()


@pytest.fixture
def two(tmp_path: Path) -> Iterator[TwoWorkers]:
    with running(tmp_path / "data", "--workers", "2", *FLAGS) as gateway:
        made = TwoWorkers(gateway)
        yield made
        made.close()


def enqueue(client: HttpClient, queue: str, count: int, first: int = 0) -> None:
    body = {"jobs": [{"data": number} for number in range(first, first + count)]}
    answer = client.ask("POST", f"/queues/{queue}/jobs/batch", body)
    assert answer.status in {200, 201}, answer.body


def take(client: HttpClient, queue: str, count: int) -> list[str]:
    """The leases of so many jobs."""
    leases = []
    for _ in range(count):
        answer = client.ask("GET", f"/queues/{queue}/next?timeout=5&lease=43200")
        assert answer.status == 200, answer.body
        leases.append(answer.headers["lease-id"])
    return leases


def park(two: TwoWorkers, queue: str, count: int) -> list[HttpClient]:
    """Polls that wait, each on a connection of its own."""
    clients = [two.client() for _ in range(count)]
    for client in clients:
        client.send("GET", f"/queues/{queue}/next?timeout=500&lease=43200")
    return clients


def answers(clients: list[HttpClient], done: Callable[[int], bool], within_s: float = LONG_S) -> list[HttpAnswer]:
    """The answers that come until `done` says of their number that it is enough, or the time is over."""
    found: list[HttpAnswer] = []
    with selectors.DefaultSelector() as selector:
        for client in clients:
            assert client._socket is not None
            selector.register(client._socket, selectors.EVENT_READ, client)
        ends_s = time.monotonic() + within_s
        while not done(len(found)) and (left_s := ends_s - time.monotonic()) > 0:
            for key, _ in selector.select(left_s):
                selector.unregister(key.fileobj)
                found.append(key.data.answer())
    return found


def stats(client: HttpClient, queue: str) -> dict[str, int]:
    return client.ask("GET", f"/queues/{queue}").json()


def frozen_with_leases_and_polls(two: TwoWorkers) -> tuple[HttpClient, list[str], list[HttpClient]]:
    """Worker 0 holds leases and polls, and is frozen. Returns a client of worker 1, one of its own for each."""
    each = LEASES // QUEUES
    with two.only(0):
        holder = two.client()
        for number in range(QUEUES):
            enqueue(holder, f"held-{number}", each)
        leases = [lease for number in range(QUEUES) for lease in take(holder, f"held-{number}", each)]
        polls = [poll for number in range(QUEUES) for poll in park(two, f"q{number}", POLLS // QUEUES)]
        until(
            lambda: sum(stats(holder, f"q{number}")["waiters"] for number in range(QUEUES)) == QUEUES * WAITS,
            within_s=LONG_S,
        )
    os.kill(two.workers[0], signal.SIGSTOP)
    two.holder = holder
    return two.client(), leases, polls


@pytest.mark.slow
def test_a_frozen_worker_holds_up_a_few_jobs_a_queue_and_keeps_its_leases(two: TwoWorkers) -> None:
    """The other worker delivers every further job but --kestrel-waits a queue; the leases are settled after SIGCONT."""
    client, leases, polls = frozen_with_leases_and_polls(two)
    jobs = 3 * WAITS
    others = [poll for number in range(QUEUES) for poll in park(two, f"q{number}", jobs)]
    for number in range(QUEUES):
        enqueue(client, f"q{number}", jobs)
    found = answers(others, lambda count: count >= QUEUES * (jobs - WAITS))
    by_queue = Counter(answer.json()["queue"] for answer in found)
    assert all(by_queue[f"q{number}"] >= jobs - WAITS for number in range(QUEUES)), by_queue
    assert sum(stats(client, f"held-{number}")["open_reads"] for number in range(QUEUES)) == len(leases)
    os.kill(two.workers[0], signal.SIGCONT)
    holder = two.holder
    assert {holder.ask("POST", f"/leases/{lease}/ack").status for lease in leases} == {204}
    late = answers([*polls], lambda count: count >= QUEUES * jobs - len(found), 10)
    assert len(late) <= QUEUES * WAITS
    delivered = [(answer.json()["queue"], answer.json()["data"]) for answer in [*found, *late]]
    assert len(delivered) == len(set(delivered))


@pytest.mark.slow
def test_a_frozen_worker_that_is_killed_returns_everything(two: TwoWorkers) -> None:
    """Its leases and what was under way to it, at once and in order."""
    client, leases, _ = frozen_with_leases_and_polls(two)
    for number in range(QUEUES):
        enqueue(client, f"q{number}", WAITS)
    os.kill(two.workers[0], signal.SIGKILL)
    names = [f"{kind}{number}" for number in range(QUEUES) for kind in ("held-", "q")]
    took_s = until(lambda: not any(stats(client, name)["open_reads"] for name in names), within_s=LONG_S)
    print(f"{len(leases)} leases were back {took_s:.2f} s after the kill")
    for number in range(QUEUES):
        for name, count in ((f"held-{number}", LEASES // QUEUES), (f"q{number}", WAITS)):
            bodies = []
            for _ in range(count):
                answer = client.ask("GET", f"/queues/{name}/next?timeout=5&lease=43200")
                bodies.append(answer.json()["data"])
            assert bodies == list(range(count)), name


@pytest.mark.slow
def test_a_killed_worker_s_jobs_come_in_order_to_the_polls_of_the_other(two: TwoWorkers) -> None:
    """50 queues with open reads at worker 0, a poll for each at worker 1: it gets the first job, then the rest."""
    queues = 50
    each = max(2, LEASES // queues)
    with two.only(0):
        holder = two.client()
        for number in range(queues):
            enqueue(holder, f"many-{number}", each)
            take(holder, f"many-{number}", each)
    with two.only(1):
        client = two.client()
        polls = [poll for number in range(queues) for poll in park(two, f"many-{number}", 1)]
        until(
            lambda: sum(stats(client, f"many-{number}")["waiters"] for number in range(queues)) == queues,
            within_s=LONG_S,
        )
    os.kill(two.workers[0], signal.SIGKILL)
    began_s = time.monotonic()
    first = answers(polls, lambda count: count == queues)
    print(f"{queues} polls had their jobs {time.monotonic() - began_s:.2f} s after the kill")
    assert Counter(answer.json()["data"] for answer in first) == {0: queues}
    for number in range(queues):
        rest = [client.ask("GET", f"/queues/many-{number}/next?timeout=5").json()["data"] for _ in range(each - 1)]
        assert rest == list(range(1, each)), number


@pytest.mark.slow
def test_a_killed_broker_ends_every_lease_and_serves_the_polls_when_it_is_back(tmp_path: Path) -> None:
    """Each lease is lost; one log line says that the server is; polls stay, and get the jobs."""
    each = LEASES // QUEUES
    with running(tmp_path / "data", *FLAGS) as gateway:
        two = TwoWorkers(gateway)
        client = two.client()
        for number in range(QUEUES):
            enqueue(client, f"held-{number}", each)
        leases = [lease for number in range(QUEUES) for lease in take(client, f"held-{number}", each)]
        polls = [poll for number in range(QUEUES) for poll in park(two, f"held-{number}", POLLS // QUEUES)]
        until(
            lambda: sum(stats(client, f"held-{number}")["waiters"] for number in range(QUEUES)) == QUEUES * WAITS,
            within_s=LONG_S,
        )
        (broker,) = [pid for pid, command in children_of(gateway.process.pid).items() if "gateway.broker" in command]
        os.kill(broker, signal.SIGKILL)
        began_s = time.monotonic()
        found = answers(polls, lambda count: count == min(POLLS, LEASES))
        print(f"{len(found)} polls had their jobs {time.monotonic() - began_s:.2f} s after the kill")
        assert {answer.status for answer in found} == {200}
        settled = [client.ask("POST", f"/leases/{lease}/ack") for lease in leases]
        assert {(answer.status, answer.code) for answer in settled} == {(410, "lease-lost")}
        assert len(re.findall(r"Kestrel at .* is down: ", gateway.log.read_text())) == 1
        two.close()
