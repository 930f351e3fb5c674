"""What tenants share is shared: whatever one takes, another finds room, and what is given back is there again."""

import contextlib
import re
import socket
from collections.abc import Iterator

import httpx
import pytest

from tests.api.keyring import Keyring
from tests.lab import plain
from tests.lab.commands import NOWHERE, Commands
from tests.lab.gateway import Running, running
from tests.lab.waiting import until

UNIT = 1 << 18
"""A large body. Still larger ones need more CPU and show no more."""
FLAGS = (
    "--max-waits", "20", "--max-leases", "20", "--max-lease-bytes", str(8 * UNIT), "--max-buffer-bytes", str(16 * UNIT),
    "--max-connections", "60", "--max-batch-bytes", str(4 * UNIT), "--kestrel-waits", "2",
)  # fmt: skip


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    """Two tenants, and an operator who sees the figures."""
    keys = Keyring(tmp_path_factory.mktemp("keys") / "keys.toml")
    for name in ("greedy", "other"):
        keys.add(name, tenant=name)
    keys.add("operator", scopes="operator")
    return keys


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, keys: Keyring) -> Iterator[Running]:
    """A gateway with low limits."""
    with running(tmp_path_factory.mktemp("shared") / "data", *FLAGS, "--keys", str(keys.path)) as gateway:
        yield gateway


def send(gateway: Running, keys: Keyring, line: str, more: bytes = b"", headers: str = "") -> socket.socket:
    """A connection on which the greedy tenant has sent so much of a request."""
    connection = gateway.connect()
    head = f"{line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {keys.secrets['greedy']}\r\n{headers}\r\n"
    connection.sendall(head.encode() + more)
    return connection


def held(gateway: Running, keys: Keyring, resource: str) -> float:
    """How much of it is held by all tenants."""
    with keys.client(gateway, "operator") as http:
        text = http.get("/metrics").text
    prefix = f'kestrel_gateway_share_held{{resource="{resource}",worker="0"}} '
    return next(float(line.removeprefix(prefix)) for line in text.splitlines() if line.startswith(prefix))


def works(http: httpx.Client) -> None:
    """The other tenant enqueues, takes and acks, at once."""
    assert http.post("/queues/work/jobs", json="x").status_code == 201
    taken = http.get("/queues/work/next?timeout=0")
    assert taken.status_code == 200, taken.text
    assert http.post(f"/leases/{taken.headers['lease-id']}/ack").status_code == 204


def refusal(answer: httpx.Response) -> str:
    """The code of a 503 that says when to come again."""
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) >= 1
    return str(answer.json()["code"])


def test_polls_on_many_queues_leave_others_room(shared, keys):
    """One tenant waits wherever it may; another's `next` works with a job there, parked and with timeout=0."""
    with (
        keys.client(shared, "greedy") as greedy,
        keys.client(shared, "other") as other,
        contextlib.ExitStack() as stack,
    ):
        polls = [stack.enter_context(send(shared, keys, f"GET /queues/q{i}/next?timeout=40")) for i in range(10)]
        until(lambda: held(shared, keys, "waiters") == 10)
        assert refusal(greedy.get("/queues/more/next?timeout=5")) == "too-many-waiters"
        works(other)
        assert other.get("/queues/work/next?timeout=0.1").status_code == 204
        for poll in polls:
            poll.close()
        until(lambda: greedy.get("/queues/more/next?timeout=0.1").status_code == 204)
    assert held(shared, keys, "waiters") == 0


def test_leases_and_their_bytes_leave_others_room(shared, keys):
    """One tenant takes all leases it may, first many, then large ones; another takes and acks."""
    with keys.client(shared, "greedy") as greedy, keys.client(shared, "other") as other:
        for size, taken in ((10, 10), (UNIT, 4)):
            leases = []
            for _ in range(taken + 1):
                assert greedy.post("/queues/big/jobs", content=bytes(size - 1)).status_code == 201
            while (answer := greedy.get("/queues/big/next?timeout=1&lease=43200&format=raw")).status_code == 200:
                leases.append(answer.headers["lease-id"])
            assert refusal(answer) == "too-many-leases"
            assert taken - 2 <= len(leases) <= taken
            works(other)
            assert greedy.post("/leases/settle", json={"acks": leases}).status_code == 200
            assert greedy.post("/queues/big/flush").status_code in {200, 204}
        until(lambda: held(shared, keys, "lease_bytes") == held(shared, keys, "leases") == 0)


def test_bodies_that_never_come_whole(shared, keys):
    """Half-sent bodies hold what they announced: above the share 503 before a byte is read, others go on."""
    with (
        keys.client(shared, "greedy") as greedy,
        keys.client(shared, "other") as other,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(2):
            headers = f"Content-Type: application/x-ndjson\r\nContent-Length: {4 * UNIT}\r\n"
            stack.enter_context(send(shared, keys, "POST /queues/q/jobs", b"1\n" * 1000, headers))
        until(lambda: held(shared, keys, "buffer_bytes") == 8 * UNIT)
        assert refusal(greedy.post("/queues/q/jobs", content=b"x")) == "too-many-bytes"
        chunked = greedy.post("/queues/q/jobs", content=iter([b"x" * 100]))
        assert refusal(chunked) == "too-many-bytes"
        works(other)
        assert other.post("/queues/q/jobs", content=bytes(UNIT)).status_code == 201
    until(lambda: held(shared, keys, "buffer_bytes") == 0)


def test_answers_that_nobody_reads_leave_others_room(shared, keys):
    """They count until they are read: above the share the job stays on its queue; others take large ones."""
    with (
        keys.client(shared, "greedy") as greedy,
        keys.client(shared, "other") as other,
        contextlib.ExitStack() as stack,
    ):
        for http in (greedy, other):
            assert http.post("/queues/large/jobs", content=bytes(UNIT)).status_code == 201
        for _ in range(40):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1000)  # else the kernel buffers 2.5 MiB of it
            connection.connect(("127.0.0.1", shared.port))
            secret = keys.secrets["greedy"]
            line = f"GET /queues/large/peek HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\n\r\n"
            connection.sendall(line.encode() * 2)
            answer = greedy.get("/queues/large/peek")
            if answer.status_code == 503:
                break
        assert refusal(answer) == "too-many-bytes"
        assert held(shared, keys, "buffer_bytes") <= 8 * UNIT
        assert other.get("/queues/large/next?timeout=0&format=raw").status_code == 200
        works(other)
    until(lambda: held(shared, keys, "buffer_bytes") == 0)


def test_connections_leave_others_room(shared, keys):
    """A tenant's requests take a share of the connections; silent ones, and the tenant's own idle ones, make room."""
    with keys.client(shared, "other") as other, contextlib.ExitStack() as stack:
        until(lambda: held(shared, keys, "connections") == 1)  # this one: those of earlier tests have ended
        polls = [stack.enter_context(send(shared, keys, "GET /queues/q/next?timeout=40")) for _ in range(30)]
        until(lambda: held(shared, keys, "connections") == 31)
        beyond = stack.enter_context(send(shared, keys, "GET /queues/q/next?timeout=40"))
        assert b"too-many-connections" in beyond.recv(65536)
        for _ in range(60):
            stack.enter_context(socket.create_connection(("127.0.0.1", shared.port), 10))
        works(other)
        with plain.client() as fresh:
            assert fresh.get(shared.url + "/livez").status_code == 200
        for poll in polls:
            poll.setblocking(False)
            with pytest.raises(BlockingIOError):  # it still waits
                pytest.fail(f"a poll has ended: {poll.recv(65536)!r}")


def test_limits_that_no_body_fits_into_are_refused():
    """At the start, with both settings named."""
    done = Commands("")("serve", "--port", "0", *NOWHERE, "--max-buffer-bytes", "70000", "--max-job-bytes", "10")
    assert done.returncode == 2
    assert re.search(rb"max-batch-bytes: .* is above tenant-share \(0.5\) of max-buffer-bytes", done.stderr)
