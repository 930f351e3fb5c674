"""Parked polls have caps: in all, of one tenant, of one queue, and one tenant leaves room for others."""

import socket
import time
from pathlib import Path

import pytest

from tests.api.keyring import Keyring
from tests.lab.gateway import Running, running


def park(gateway: Running, queue: str, headers: dict[str, str]) -> socket.socket:
    """A poll that waits."""
    connection = gateway.connect()
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    connection.sendall(f"GET /queues/{queue}/next?timeout=45 HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode())
    return connection


CAPS = {
    "all": (
        ("--max-waiters", "3", "--tenant-share", "1"),
        "this worker has reached its limit of 3 waiting polls",
        {"one b", "two a"},
    ),
    "share": (
        ("--max-waiters", "6"),
        "the tenant has 3 waiting polls on this worker, its share of the limit of 6",
        {"one b"},
    ),
    "tenant": (
        ("--max-tenant-waiters", "3"),
        "the tenant has reached its limit of 3 waiting polls on this worker",
        {"one b"},
    ),
    "queue": (("--max-queue-waiters", "3"), "the queue has reached its limit of 3 waiting polls on this worker", set()),
}


@pytest.mark.parametrize(("flags", "detail", "refused"), CAPS.values(), ids=CAPS)
def test_one_more_than_the_cap_is_told(tmp_path: Path, flags, detail, refused):
    """503 `too-many-waiters` only where the limit is reached; when one ends the next may wait, and no job is lost."""
    keys = Keyring(tmp_path / "keys.toml")
    keys.add("one", tenant="acme")
    keys.add("two", tenant="other")
    with running(tmp_path / "data", *flags, "--keys", str(keys.path)) as gateway:
        polls = [park(gateway, "a", keys.bearer("one")) for _ in range(3)]
        with keys.client(gateway, "one") as one, keys.client(gateway, "two") as two:
            for _ in range(5):
                assert gateway.ready()
            answer = one.get("/queues/a/next?timeout=0")
            assert (answer.status_code, answer.json()["code"]) == (503, "too-many-waiters")
            assert answer.json()["detail"].startswith(detail)
            assert int(answer.headers["retry-after"]) >= 1
            for who, client, queue in (("one b", one, "b"), ("two a", two, "a")):
                expected = 503 if who in refused else 204
                assert client.get(f"/queues/{queue}/next?timeout=0").status_code == expected, who
            polls.pop().close()
            while (answer := one.get("/queues/a/next?timeout=0")).status_code == 503:
                time.sleep(0.005)
            assert answer.status_code == 204
            assert one.post("/queues/a/jobs", json="x").status_code == 201
            assert b"200 OK" in polls[0].recv(65536)
