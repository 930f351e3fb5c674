"""The gateway, as the worker uses it: take a job, extend its lease, settle it. One attempt a call; callers repeat."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

import httpx

from gateway.client import failures
from gateway.client.api import CONNECT_S, MARGIN_S, queue_path, settings
from gateway.client.target import Target
from gateway.work.job import TakenJob, passed_on

_LINES: Final = "application/x-ndjson"


class JobSource:
    """Takes jobs of some queues. lease_s: the length of each lease. connections: the most calls at a time."""

    def __init__(self, target: Target, queues: Sequence[str], *, lease_s: float, connections: int) -> None:
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._http = httpx.AsyncClient(**settings(target), limits=limits)
        self._url = target.url
        self._lease_s = lease_s
        self._path = f"{queue_path(queues[0])}/next" if len(queues) == 1 else "/next"
        self._only = queues[0] if len(queues) == 1 else ""
        self._params: dict[str, Any] = {"lease_seconds": f"{lease_s:.15g}"}
        if not self._only:
            self._params["queue"] = list(queues)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def take(self, wait_s: float) -> TakenJob | None:
        """The next job, as its own bytes; None if none came. Raises CallFailed.

        Cancelled: the connection closes, and the gateway gives no job to it.
        """
        return self._taken(await self._next(wait_s, {"format": "raw"}), None)

    async def take_batch(self, wait_s: float, most: int) -> TakenJob | None:
        """Up to `most` jobs under one lease, as lines of JSON. Otherwise as `take`."""
        if most == 1:
            answer = await self._next(wait_s, {}, accept="application/json")
            return self._taken(answer, [answer.content])
        answer = await self._next(wait_s, {"max": most}, accept=_LINES)
        if answer.headers.get("content-type", "").startswith(_LINES):
            return self._taken(answer, answer.content.splitlines()[1:])  # the first line is the lease
        jobs = answer.json()["jobs"] if answer.content else []
        return self._taken(answer, [json.dumps(each).encode() for each in jobs])

    async def _next(self, wait_s: float, params: Mapping[str, Any], accept: str = "*/*") -> httpx.Response:
        params = {**self._params, **params, "timeout": f"{wait_s:.15g}"}
        return await self._call("GET", self._path, wait_s, params=params, headers={"Accept": accept})

    def _taken(self, answer: httpx.Response, lines: Sequence[bytes] | None) -> TakenJob | None:
        """lines: one for each job of a batch; None: the answer is the job."""
        if answer.status_code == 204:
            return None
        lease = answer.headers.get("lease-id")
        if lease is None:
            detail = f"{self._url}: the answer has no lease; the URL is not that of a kestrel-gateway"
            raise failures.CallFailed("unexpected-answer", detail, status=answer.status_code, retryable=False)
        batch: dict[str, Any] = {}
        if lines is not None:
            attempts = [int(json.loads(line)["attempt"]) for line in lines]
            batch = {"jobs": len(lines), "batch_attempt": max(attempts)}
        return TakenJob(
            queue=self._only or answer.headers["queue-name"],
            lease=lease,
            lease_s=self._lease_s,
            lease_url=f"{self._url}/leases/{lease}",
            lease_expires=answer.headers["lease-expires"],
            body=answer.content if lines is None else b"".join(line + b"\n" for line in lines),
            content_type=_LINES if batch else answer.headers.get("content-type", "application/octet-stream"),
            headers={} if batch else passed_on(answer.headers),
            **batch,
        )

    async def extend(self, job: TakenJob) -> float:
        """The monotonic time at which the lease ends at the earliest. Raises CallFailed."""
        now_s = time.monotonic()
        await self._call("POST", f"/leases/{job.lease}/extend", json={"lease_seconds": job.lease_s})
        return now_s + job.lease_s

    async def settle(self, job: TakenJob, how: str, body: dict[str, Any] | None) -> str:
        """Where the job is now: `tail`, `head`, `dead`; empty after an ack. Raises CallFailed."""
        answer = await self._call(
            "POST", f"/leases/{job.lease}/{how}", json=body, headers={"Accept": "application/json"}
        )
        return str(answer.json().get("position", "")) if answer.content else ""

    async def _call(self, method: str, path: str, wait_s: float = 0, **options: Any) -> httpx.Response:
        if wait_s:
            options["timeout"] = httpx.Timeout(wait_s + MARGIN_S, connect=CONNECT_S, pool=None)
        try:
            answer = await self._http.request(method, path, **options)
        except httpx.TransportError as exc:
            raise failures.no_answer(exc, self._url) from exc
        if not answer.is_success:
            raise failures.of_answer(answer.status_code, answer.headers, answer.content)
        return answer
