"""A worker that stood still until its leases were over, and Kestrel had put their jobs back, copies none of them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.broker import BrokerProcess
from tests.lab.gateway import Running, running
from tests.lab.processes import children_of
from tests.lab.waiting import until

JOBS, LEASE_S = 5, 4.0
QUEUES = ("once", "often")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BrokerProcess]:
    one = BrokerProcess(tmp_path / "broker", "--fsync", "off")
    yield one
    one.close()


def test_a_thawed_worker_copies_nothing_that_went_back(tmp_path: Path, broker: BrokerProcess) -> None:
    """Frozen past the leases' ends while the server restarts: each job is there once, as its first attempt. It would be
    a dead letter on the one queue, and at the tail of the other."""
    (tmp_path / "queues.toml").write_text("[queues.once]\nmax_attempts = 1\n")
    flags = ("--kestrel", broker.address, "--queues", str(tmp_path / "queues.toml"))
    with running(tmp_path / "data", *flags) as gateway, gateway.client() as http:
        for queue in QUEUES:
            for number in range(JOBS):
                assert http.post(f"/queues/{queue}/jobs", json=number).status_code == 201
        leases = [
            http.get(f"/queues/{queue}/next?lease={LEASE_S:g}").json()["lease"]["url"]
            for queue in QUEUES
            for _ in range(JOBS)
        ]
        over_s = time.monotonic() + LEASE_S + 0.2
        worker = worker_of(gateway)
        os.kill(worker, signal.SIGSTOP)
        until(lambda: time.monotonic() > over_s)
        broker.kill()
        broker.start()
        os.kill(worker, signal.SIGCONT)
        until(lambda: not any(http.get(url).json()["state"] in ("held", "settling") for url in leases), within_s=10)
        for queue in QUEUES:
            assert (broker.stat(f"queue_{queue}_items"), broker.stat(f"queue_{queue}__dead_items")) == (JOBS, 0)
            assert broker.stat(f"queue_{queue}_total_items") == JOBS


def worker_of(gateway: Running) -> int:
    """The process id of its only worker."""
    (pid,) = [pid for pid, command in children_of(gateway.process.pid).items() if "process.worker" in command]
    return pid
