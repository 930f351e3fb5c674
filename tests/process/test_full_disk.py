"""A gateway whose embedded broker cannot write: what it refuses, it refuses clearly; the rest goes on."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.lab.gateway import Running, running
from tests.lab.processes import children_of
from tests.lab.waiting import until


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Running]:
    """One of the test's own."""
    with running(tmp_path / "data") as own:
        yield own


def broker_pid(gateway: Running) -> int:
    """The broker's process."""
    (pid,) = [pid for pid, command in children_of(gateway.process.pid).items() if "gateway.broker" in command]
    return pid


def limit_files(pid: int, size: int | None) -> None:
    """No file of the process may grow beyond `size`: what a full disk is to it."""
    hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard if size is None else size, hard))


def problem(answer: httpx.Response, status: int) -> str:
    """The problem's code."""
    assert answer.status_code == status, answer.text
    return str(answer.json()["code"])


def test_what_cannot_be_written_is_refused_and_nothing_is_unknown(gateway: Running) -> None:
    """No byte more: enqueue and ack are 503 backend-refused, never 502; the lease's end is reported; the job is back.

    The gateway stays ready: reads go on, and so do acks where the disk is merely full."""
    pid = broker_pid(gateway)
    with gateway.client() as http:
        assert http.post("/queues/q/jobs", content=b"1").status_code == 201
        lease = http.get("/queues/q/next?timeout=0").json()["lease"]["url"]
        limit_files(pid, 1)
        for _ in range(5):
            assert problem(http.post("/queues/q/jobs", content=b"2"), 503) == "backend-refused"
            assert http.get("/readyz").status_code == 200
        assert problem(http.post(lease + "/ack"), 503) == "backend-refused"
        assert http.get(lease).json()["state"] == "lost"
        assert problem(http.post(lease + "/ack"), 410) == "lease-lost"
        again = http.get("/queues/q/next?timeout=2").json()
        assert again["data"] == "1" or again["data"] == 1
        assert http.get("/readyz").status_code == 200
        limit_files(pid, None)
        assert http.post(again["lease"]["url"] + "/ack").status_code == 204
        until(lambda: http.post("/queues/q/jobs", content=b"3").status_code == 201)
        assert http.get("/queues/q").json()["items"] == 1
    assert "is lost" not in gateway.log.read_text()
