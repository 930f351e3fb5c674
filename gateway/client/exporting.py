"""Takes the jobs of a queue, many at a time, and acks them once they are on disk."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any, Final, Self

import httpx

from gateway.client import events, failures
from gateway.client.api import CONNECT_S, MARGIN_S, queue_path, settings
from gateway.client.failures import CallFailed
from gateway.client.progress import ProgressBar
from gateway.client.target import Target

_AT_A_TIME: Final = 32
"""Jobs that are taken together and acked together: so many are twice in the file at most after an interruption."""
_LEASE_S: Final = 60.0
"""Much longer than to write and sync _AT_A_TIME jobs; it is what an interruption costs the jobs in hand."""
_RETRY_S: Final = 30.0
"""How long a call is repeated: half of a lease, so that an ack that succeeds at last is in time."""
_EVENT: Final = "application/cloudevents+json"


class FileError(Exception):
    """The file cannot be written as asked."""


class ExportFile:
    """The file. cut: an incomplete last line was cut off. known: the identities of the jobs that it had before."""

    def __init__(self, path: Path, *, append: bool) -> None:
        self.cut = False
        self.known: set[bytes] = set()
        try:
            self._file = path.open("r+b" if append and path.exists() else "xb")
        except FileExistsError as exc:
            raise FileError(f"{path} exists; give --append to continue it, or another name") from exc
        except OSError as exc:
            raise FileError(f"{path} cannot be written: {exc.strerror}") from exc
        try:
            self._continue()
        except FileError:
            self._file.close()
            raise
        directory = os.open(path.parent, os.O_RDONLY)
        with contextlib.suppress(OSError):
            os.fsync(directory)  # the name of the file is on disk, too
        os.close(directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, lines: list[bytes]) -> None:
        """Writes the lines and syncs them to disk. Raises OSError."""
        self._file.write(b"".join(line + b"\n" for line in lines))
        self._file.flush()
        os.fsync(self._file.fileno())

    def _continue(self) -> None:
        """Reads what is there, and goes to its end. Raises FileError."""
        if not self._file.readable():
            return
        end = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                self.cut = True
                break
            try:
                self.known.add(events.identity(line))
            except (ValueError, AttributeError) as exc:
                raise FileError(f"{self._file.name} is not the file of an export: {exc}") from exc
            end += len(line)
        self._file.seek(end)
        self._file.truncate()


class Export:
    """written, known: jobs that are new in the file, and that were in it. coverage: of the last poll, if not whole."""

    def __init__(self, target: Target, queue: str, file: ExportFile, *, wait_s: float, most: int | None) -> None:
        self.written = self.known = 0
        self.coverage = ""
        self._target = target
        self._path = queue_path(queue)
        self._file = file
        self._wait_s = wait_s
        self._most = most

    async def run(self) -> None:
        """Moves the jobs. Raises CallFailed, OSError. Cancelled: jobs in hand go back if the gateway answers."""
        limits = httpx.Limits(max_connections=_AT_A_TIME, max_keepalive_connections=_AT_A_TIME)
        async with httpx.AsyncClient(**settings(self._target), limits=limits) as http:
            with ProgressBar("exporting", self._most or await self._items(http)) as bar:
                while (left := self._left()) and (jobs := await self._take(http, min(left, _AT_A_TIME))):
                    await self._keep(http, jobs)
                    bar.reached(self.written + self.known)

    async def _items(self, http: httpx.AsyncClient) -> int | None:
        """The waiting jobs; None if the key may not ask. Raises CallFailed."""
        try:
            return int((await self._call(http, "GET", self._path)).json()["items"])
        except CallFailed as failed:
            if failed.status == httpx.codes.FORBIDDEN:
                return None
            raise

    def _left(self) -> int:
        return _AT_A_TIME if self._most is None else self._most - self.written - self.known

    async def _take(self, http: httpx.AsyncClient, count: int) -> list[httpx.Response]:
        """Up to `count` jobs, each with its lease; none if no job came in time."""
        params = {"timeout": f"{self._wait_s:g}", "lease_seconds": f"{_LEASE_S:g}"}
        calls: list[asyncio.Future[httpx.Response]] = [
            asyncio.ensure_future(
                self._call(http, "GET", f"{self._path}/next", params=params, headers={"Accept": _EVENT})
            )
            for _ in range(count)
        ]
        try:
            await asyncio.wait(calls)
        except asyncio.CancelledError:
            for each in calls:
                each.cancel()
            await self._give_back(http, _jobs(calls))
            raise
        failed = [error for each in calls if (error := each.exception())]
        found = [each.result() for each in calls if not each.exception()]
        jobs = _jobs(calls)
        if failed:
            await self._give_back(http, jobs)
            raise failed[0]
        self.coverage = next((each.headers["queue-coverage"] for each in found if "queue-coverage" in each.headers), "")
        return jobs

    async def _keep(self, http: httpx.AsyncClient, jobs: list[httpx.Response]) -> None:
        """Writes the jobs, then acks them."""
        lines = [_line(each) for each in jobs]
        new = [line for line in lines if not self._file.known or events.identity(line) not in self._file.known]
        acks = [each.headers["lease-id"] for each in jobs]
        try:
            await asyncio.to_thread(self._file.write, new)
            answer = await self._call(http, "POST", "/leases/settle", json={"acks": acks})
        except (OSError, asyncio.CancelledError):
            await self._give_back(http, jobs)  # those that are acked stay so
            raise
        lost = [each for each in answer.json()["results"] if "code" in each]
        if lost:
            raise CallFailed(lost[0]["code"], lost[0]["detail"], status=lost[0]["status"], retryable=True)
        self.written += len(new)
        self.known += len(lines) - len(new)

    async def _give_back(self, http: httpx.AsyncClient, jobs: list[httpx.Response]) -> None:
        nacks = [{"lease": each.headers["lease-id"], "position": "head"} for each in jobs]
        with contextlib.suppress(CallFailed):
            await self._once(http, "POST", "/leases/settle", json={"nacks": nacks})

    async def _call(self, http: httpx.AsyncClient, method: str, path: str, **options: Any) -> httpx.Response:
        """A successful answer. Raises CallFailed."""
        ends_s = time.monotonic() + _RETRY_S
        tries = 0
        while True:
            try:
                return await self._once(http, method, path, **options)
            except CallFailed as failed:
                tries += 1
                pause_s = failed.retry_after_s + failures.pause_s(tries)
                if not failed.retryable or time.monotonic() + pause_s > ends_s:
                    raise
                await asyncio.sleep(pause_s)

    async def _once(self, http: httpx.AsyncClient, method: str, path: str, **options: Any) -> httpx.Response:
        timeout = httpx.Timeout(self._wait_s + _RETRY_S + MARGIN_S, connect=CONNECT_S, pool=None)
        try:
            answer = await http.request(method, path, timeout=timeout, **options)
        except httpx.TransportError as exc:
            raise failures.no_answer(exc, self._target.url) from exc
        if not answer.is_success:
            raise failures.of_answer(answer.status_code, answer.headers, answer.content)
        return answer


def _jobs(calls: list[asyncio.Future[httpx.Response]]) -> list[httpx.Response]:
    """The answers that have a job."""
    answers = [each.result() for each in calls if each.done() and not each.cancelled() and not each.exception()]
    return [each for each in answers if each.status_code == httpx.codes.OK]


def _line(answer: httpx.Response) -> bytes:
    """The job in an answer, as a line."""
    if answer.headers["content-type"].startswith(_EVENT):
        return events.line_of_event(answer.content)
    return events.line_of_item(json.loads(answer.content))
