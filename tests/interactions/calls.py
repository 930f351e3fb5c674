"""The calls that these tests make, through one client."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import httpx

from tests.lab.waiting import until

LATE_S = 10
"""How long a job that is to come is waited for."""


class Api:
    """Each call asserts that it succeeds, if its docstring does not say otherwise."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def put(self, queue: str, *values: object, **headers: str) -> dict[str, Any]:
        """Enqueues each value; returns the last answer's body and its replay header."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        for value in values:
            answer = self.http.post(f"/queues/{queue}/jobs", json=value, headers=given)
            assert answer.status_code == 201, answer.text
        return answer.json() | {"replayed": answer.headers.get("idempotency-replayed")}

    def refused(self, queue: str, value: object) -> str:
        """The code of an enqueue that fails."""
        return self.http.post(f"/queues/{queue}/jobs", json=value).json()["code"]

    def next(self, queue: str, timeout_s: float = 0, lease_s: int = 60) -> httpx.Response:
        answer = self.http.get(f"/queues/{queue}/next", params={"timeout": timeout_s, "lease_seconds": lease_s})
        assert answer.status_code in {200, 204}, answer.text
        return answer

    def first_of(self, *queues: str) -> httpx.Response:
        return self.http.get("/next", params={"queue": queues, "timeout": 0})

    def take(self, queue: str, timeout_s: float = LATE_S) -> dict[str, Any]:
        """The next job, which has to come."""
        answer = self.next(queue, timeout_s)
        assert answer.status_code == 200, f"no job of {queue} within {timeout_s} s"
        return answer.json()

    def take_when_due(self, queue: str, nacked: dict[str, Any]) -> dict[str, Any]:
        """The next job, which must not come before its `due_at`."""
        job = self.take(queue)
        assert time.time() >= datetime.fromisoformat(nacked["due_at"]).timestamp(), "the job is early"
        return job

    def values(self, queue: str, count: int) -> list[Any]:
        """The data of that many jobs, each acked before the next."""
        found = []
        for _ in range(count):
            job = self.take(queue)
            found.append(job["data"])
            self.ack(job)
        return found

    def ack(self, job: dict[str, Any]) -> None:
        assert self.http.post(job["lease"]["url"] + "/ack").status_code == 204

    def nack(self, job: dict[str, Any], **body: object) -> dict[str, Any]:
        """Where the job is: its position and `due_at`; nothing for a job that is back at once."""
        answer = self.http.post(job["lease"]["url"] + "/nack", json=body)
        assert answer.status_code in {200, 204}, answer.text
        return answer.json() if answer.content else {}

    def reject(self, job: dict[str, Any]) -> None:
        assert self.http.post(job["lease"]["url"] + "/reject", json={}).status_code < 300

    def redrive(self, queue: str) -> None:
        assert self.http.post(f"/queues/{queue}/redrive", json={}).json()["redriven"] == 1

    def pause(self, queue: str) -> None:
        assert self.http.put(f"/queues/{queue}/pause").status_code == 200
        assert self.next(queue).headers["queue-paused"] == "true"

    def resume(self, queue: str) -> None:
        assert self.http.delete(f"/queues/{queue}/pause").status_code == 200

    def subscribe(self, queue: str, child: str = "audit") -> str:
        answer = self.http.put(f"/queues/{queue}/subscriptions/{child}")
        assert answer.status_code == 201, answer.text
        return f"{queue}+{child}"

    def items(self, queue: str) -> int:
        return self.http.get(f"/queues/{queue}", params={"missing": "zero"}).json()["items"]

    def dead(self, queue: str) -> int:
        return self.http.get(f"/queues/{queue}/dead-letters").json()["items"]

    def limited(self, queue: str, reason: str = "max_in_flight") -> bool:
        """Whether the queue delivers nothing now because of that limit."""
        return self.next(queue).headers.get("queue-limited") == reason

    def wait_for_items(self, queue: str, count: int) -> None:
        until(
            lambda: self.items(queue) == count,
            lambda: f"{queue} has {self.items(queue)} items, not {count}",
            within_s=LATE_S,
        )
