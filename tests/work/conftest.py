"""Workers for the shared gateway."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.lab.gateway import Running
from tests.lab.work import WorkProcess

Start = Callable[..., WorkProcess]
Put = Callable[..., list[str]]


@pytest.fixture
def start(gateway: Running, tmp_path: Path) -> Iterator[Start]:
    """Starts workers for the shared gateway, or for another URL; they are killed in the end."""
    with contextlib.ExitStack() as stack:

        def begin(*arguments: str, url: str = "", **variables: str) -> WorkProcess:
            log = tmp_path / f"work-{len(list(tmp_path.glob('work-*.log')))}.log"
            return stack.enter_context(WorkProcess(url or gateway.url, log, *arguments, **variables))

        yield begin


@pytest.fixture
def put(http: httpx.Client, queue: str) -> Put:
    """Enqueues texts; returns the ids."""

    def enqueue(*texts: str) -> list[str]:
        answers = [
            http.post(f"/queues/{queue}/jobs", content=text.encode(), headers={"Content-Type": "text/plain"})
            for text in texts
        ]
        return [answer.raise_for_status().json()["id"] for answer in answers]

    return enqueue


@pytest.fixture
def rest(http: httpx.Client, queue: str) -> Callable[[], dict[str, tuple[int, str]]]:
    """Takes and acks every job that is left: its text, attempt and last error."""

    def take() -> dict[str, tuple[int, str]]:
        found = {}
        while (answer := http.get(f"/queues/{queue}/next?timeout=0")).status_code == 200:
            job = answer.json()
            http.post(f"/leases/{job['lease']['id']}/ack").raise_for_status()
            found[job["data"]] = (job["attempt"], job["attributes"].get("lasterror", ""))
        return found

    return take


@pytest.fixture
def dead(
    http: httpx.Client, queue: str, rest: Callable[[], dict[str, tuple[int, str]]]
) -> Callable[[], dict[str, str]]:
    """Brings back, takes and acks every dead letter: its text and the reason."""

    def take() -> dict[str, str]:
        dead = http.post(f"/queues/{queue}/redrive").raise_for_status().json()["redriven"]
        found = {job: reason for job, (_, reason) in rest().items()}
        assert len(found) == dead, "a job was ready, not dead"
        return found

    return take
