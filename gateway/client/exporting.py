"""Takes the jobs of a queue, one batch after the other, and acks each batch once it is on disk.

The next batch is taken only after the last one is acked, so the file has the jobs in the order of the queue: a job that
was taken and has to go back is not overtaken by later ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import httpx

from gateway.client import events, failures
from gateway.client.api import CONNECT_S, MARGIN_S, queue_path, settings
from gateway.client.failures import CallFailed
from gateway.client.interrupts import SIGNALS
from gateway.client.options import notice
from gateway.client.progress import ProgressBar
from gateway.client.target import Target
from gateway.common.counted import counted
from gateway.common.sync import sync

BATCH_JOBS: Final = 100
"""The largest batch. A killed command has taken at most this many jobs. Source: openapi.yaml, nextJob."""
_LEASE_S: Final = 60.0
"""Much longer than to write and sync a batch; after a kill, the jobs in progress are back that much later."""
_RETRY_S: Final = 30.0
"""How long a call is repeated: half of a lease, so that an ack that succeeds at last is in time."""
_SLICE_S: Final = 1.0
"""The longest poll. A signal lets the poll under way end, since an answer that nobody reads leaves its jobs leased."""
_END_S: Final = 5.0
"""How long a signal lets it: much longer than a gateway takes to answer, and short for a person who waits."""
_LAST_S: Final = 0.5
"""How long a second signal lets it: an answer that is under way arrives, and its jobs are given back."""
_ACCEPTED: Final = f"{events.EVENTS}, {events.EVENT}, application/json;q=0.5"


class FileError(Exception):
    """The file cannot be written as asked."""


class ExportFile:
    """The file. cut: an incomplete last line was cut off. known: the identities of the jobs that it had before.

    As a context manager it removes a file that it has made if the block fails before anything is written.
    """

    def __init__(self, path: Path, *, append: bool) -> None:
        self.cut = False
        self.known: set[bytes] = set()
        self._path = path
        try:
            self._is_new = not path.exists()
            if path.is_dir():
                raise FileError(f"{path} is a directory; name a file")
            if str(path) == "-" or not (self._is_new or path.is_file()):
                raise FileError(f"{path} is not a regular file; an export needs one that it can sync and continue")
            self._file = path.open("r+b" if append and not self._is_new else "xb")
        except FileExistsError as exc:
            raise FileError(f"{path} exists; give --append to continue it, or another name") from exc
        except OSError as exc:
            raise FileError(f"{path} cannot be written: {exc.strerror}") from exc
        try:
            self._continue()
        except FileError:
            self._file.close()
            raise
        with contextlib.suppress(OSError):  # the name of the file is on disk, too
            sync(path.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        self._file.close()
        if failed and self._is_new and not self._path.stat().st_size:
            self._path.unlink()

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
            except ValueError as exc:
                raise FileError(f"{self._file.name} is not the file of an export: {exc}") from exc
            end += len(line)
        self._file.seek(end)
        self._file.truncate()


class Export:
    """Moves the jobs of a queue into a file. most: the most jobs to take; None: all.

    written, known: jobs that are new in the file, and that were in it. left: why there may be more jobs; empty if the
    queue has none, or if `most` were taken. interrupted: a signal has ended it.
    """

    def __init__(self, target: Target, queue: str, file: ExportFile, *, wait_s: float, most: int | None) -> None:
        self.written = self.known = 0
        self.left = ""
        self.interrupted = False
        self._target = target
        self._queue = queue
        self._path = queue_path(queue)
        self._file = file
        self._wait_s = wait_s
        self._most = most
        self._signal = asyncio.Event()

    async def run(self) -> None:
        """Moves the jobs. A signal ends it after the batch in progress; a second one ends it at once, and the batch
        goes back.

        Raises CallFailed, OSError.
        """
        obeyed = [each for each in SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]  # as under nohup
        task = asyncio.current_task()
        assert task is not None
        self._on_signals(obeyed, partial(self._finish, obeyed, task))
        async with httpx.AsyncClient(**settings(self._target)) as http:
            figures = await self._figures(http)
            with ProgressBar("exporting", self._most or figures.get("items")) as bar:
                while (count := self._count()) and (jobs := await self._take(http, count)) is not None:
                    await self._keep(http, jobs)
                    bar.reached(self.written + self.known)
            if not self.interrupted and not self.left and count:
                leased = (await self._figures(http)).get("open_reads")
                self.left = f"other consumers hold {counted(leased, 'job')} of {self._queue}" if leased else ""

    def _finish(self, signals: list[signal.Signals], task: asyncio.Task[Any]) -> None:
        self._signal.set()
        self._on_signals(signals, partial(self._stop, task))

    def _stop(self, task: asyncio.Task[Any]) -> None:
        self.interrupted = True
        task.cancel()

    def _on_signals(self, signals: list[signal.Signals], do: Callable[[], object]) -> None:
        for each in signals:
            asyncio.get_running_loop().add_signal_handler(each, do)

    async def _figures(self, http: httpx.AsyncClient) -> dict[str, Any]:
        """The figures of the queue; none if the key may not see them. Raises CallFailed."""
        try:
            found: dict[str, Any] = (await self._call(http, "GET", self._path)).json()
        except CallFailed as failed:
            if failed.status == httpx.codes.FORBIDDEN:
                return {}
            raise
        return found

    def _count(self) -> int:
        return BATCH_JOBS if self._most is None else min(BATCH_JOBS, self._most - self.written - self.known)

    async def _take(self, http: httpx.AsyncClient, count: int) -> httpx.Response | None:
        """Up to `count` jobs with their lease; None if no job came in time, or if a signal came first."""
        ends_s = time.monotonic() + self._wait_s
        while not self._signal.is_set():
            left_s = max(0.0, ends_s - time.monotonic())
            answer = await self._polled(http, count, min(left_s, _SLICE_S))
            if answer is None:
                break
            if answer.status_code == httpx.codes.OK:
                return answer
            if left_s <= _SLICE_S:
                self.left = _why_nothing(self._queue, answer.headers)
                return None
        self.interrupted = True
        return None

    async def _polled(self, http: httpx.AsyncClient, count: int, wait_s: float) -> httpx.Response | None:
        """The answer of one poll; None if a signal came and no answer came soon after it."""
        params = {"timeout": f"{wait_s:.3f}", "lease_seconds": f"{_LEASE_S:.15g}"}
        if count > 1:
            params["max"] = str(count)
        call = self._call(http, "GET", f"{self._path}/next", params=params, headers={"Accept": _ACCEPTED})
        poll, stop = asyncio.ensure_future(call), asyncio.ensure_future(self._signal.wait())
        try:
            await asyncio.wait({poll, stop}, return_when=asyncio.FIRST_COMPLETED)
            if stop.done():
                await asyncio.wait({poll}, timeout=_END_S)
        except asyncio.CancelledError:
            await asyncio.wait({poll}, timeout=_LAST_S)
            if poll.done() and poll.exception() is None and poll.result().status_code == httpx.codes.OK:
                await self._give_back(http, poll.result())
            raise
        finally:
            stop.cancel()
            poll.cancel()  # its connection closes, and the gateway gives back what it was about to answer
        await asyncio.wait({poll})
        return None if poll.cancelled() else poll.result()

    async def _keep(self, http: httpx.AsyncClient, answer: httpx.Response) -> None:
        """Writes the jobs, then acks them."""
        try:
            lines = events.lines_of(answer.content, answer.headers["content-type"])
            new = [line for line in lines if not self._file.known or events.identity(line) not in self._file.known]
            await asyncio.to_thread(self._file.write, new)
            await self._call(http, "POST", f"/leases/{answer.headers['lease-id']}/ack")
        except (OSError, ValueError, asyncio.CancelledError):
            await self._give_back(http, answer)
            raise
        self.written += len(new)
        self.known += len(lines) - len(new)

    async def _give_back(self, http: httpx.AsyncClient, answer: httpx.Response) -> None:
        """The jobs are on their queue again, and that was no attempt. Those that are acked stay so."""
        path = f"/leases/{answer.headers['lease-id']}/nack"
        with contextlib.suppress(CallFailed):
            await self._once(http, "POST", path, json={"position": "head", "count": False})

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
                notice(f"{failed}; next try in {pause_s:.1f} s")
                await asyncio.sleep(pause_s)

    async def _once(self, http: httpx.AsyncClient, method: str, path: str, **options: Any) -> httpx.Response:
        timeout = httpx.Timeout(_SLICE_S + _RETRY_S + MARGIN_S, connect=CONNECT_S, pool=None)
        try:
            answer = await http.request(method, path, timeout=timeout, **options)
        except httpx.TransportError as exc:
            raise failures.no_answer(exc, self._target.url) from exc
        if not answer.is_success:
            raise failures.of_answer(answer.status_code, answer.headers, answer.content)
        return answer


def _why_nothing(queue: str, headers: httpx.Headers) -> str:
    """Why no job came although there may be jobs; empty if every server says that it has none."""
    if "queue-paused" in headers:
        return f"{queue} is paused"
    if "queue-limited" in headers:
        return f"{queue} is at a limit of its policy"
    coverage = headers.get("queue-coverage", "")
    return f"only {coverage} Kestrel servers answered" if coverage else ""
