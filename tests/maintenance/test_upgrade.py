"""This version uses the data of the first release, with jobs, leases and keys, and the release uses it again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.gateway import Running
from tests.maintenance.release import Released

QUEUE = "/queues/emails"
KEYED = {"Idempotency-Key": "k1", "Content-Type": "text/plain"}
JOBS = 20


def numbers(gateway: Running) -> Iterator[tuple[int, int]]:
    """Takes and acks every job that is there: its data and attempt."""
    with gateway.client() as http:
        while (answer := http.get(f"{QUEUE}/next?timeout=1")).status_code == 200:
            job = answer.json()
            assert http.post(f"{job['lease']['url']}/ack").status_code == 204
            yield job["data"], job["attempt"]


@pytest.mark.slow  # three starts
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_jobs_leases_and_keys_of_the_first_release(released: Path, tmp_path: Path, end: str) -> None:
    """Nothing is lost, however the old version ended; the old version reads what the new one wrote.

    A large job, which changes the format, is gone when the new version stops.
    """
    old = Released(released, tmp_path / "data")
    try:
        with old.client() as http:
            assert "/queues/{queue}/pause" not in http.get("/openapi.json").json()["paths"], "it is the release"
            for number in range(JOBS):
                assert http.post(f"{QUEUE}/jobs", json=number).status_code == 201
            keyed = http.post("/queues/keyed/jobs", content="once", headers=KEYED)
            leased = http.get(f"{QUEUE}/next").json()
            acked = http.get(f"{QUEUE}/next").json()
            assert http.post(f"{acked['lease']['url']}/ack").status_code == 204
        if end == "stop":
            assert old.stop() == 0
    finally:
        old.kill()
    new = Running(tmp_path / "data", "--max-job-bytes", str(4 << 20))
    try:
        with new.client() as http:
            assert http.post("/queues/large/jobs", json="x" * (3 << 20)).status_code == 201
            assert len(http.get("/queues/large/next?ack=auto").json()["data"]) == 3 << 20
            again = http.post("/queues/keyed/jobs", content="once", headers=KEYED)
            assert (again.status_code, again.json()) == (201, keyed.json())
            assert http.get("/queues/keyed").json()["items"] == 1
            assert http.post(f"{leased['lease']['url']}/ack").status_code == 410, "the job is back on its queue"
            assert [data for data, _ in numbers(new)] == [0, *range(2, JOBS)]
            for number in range(5):
                assert http.post(f"{QUEUE}/jobs", json=number).status_code == 201
            assert "/queues/{queue}/pause" in http.get("/openapi.json").json()["paths"]
        assert new.stop() == 0
    finally:
        new.kill()
    assert " ERROR " not in new.log.read_text()
    back = Released(released, tmp_path / "data")
    try:
        assert list(numbers(back)) == [(number, 1) for number in range(5)]
    finally:
        back.kill()
