"""Runs a command for each job: the job on its standard input, its attributes in the environment.

1. The job is in a file without a name, so a command that does not read it blocks nothing.
2. A command has a process group of its own, which ends with SIGTERM, then SIGKILL. If the worker itself is killed, the
   guard ends the group. It learns of the group from the command's process, before the command begins.
3. Its standard error goes to the worker's, and its end is kept for the reason. A reader that is slow slows the command
   down, never the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import IO, Any, Final

from gateway.work import guard, verdict
from gateway.work.job import TakenJob
from gateway.work.verdict import Action, WorkVerdict

logger: Final = logging.getLogger(__name__)

_KEPT_BYTES: Final = 4096
"""Of the standard error: MAX_REASON characters, in any encoding."""
_CHUNK: Final = 1 << 16
_REST_S: Final = 1.0
"""How long the end of standard error is waited for once a command has ended: a background process may have it open."""
_BUSY: Final = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
"""The system has no room for another process now."""
NOT_FOUND, NOT_EXECUTABLE = 127, 126
_NO_SIGNAL: Final = getattr(socket, "MSG_NOSIGNAL", 0)


class CommandRunner:
    """timeout_s: how long a command may run; 0: no limit. kill_after_s: the time between SIGTERM and SIGKILL."""

    def __init__(self, command: Sequence[str], *, timeout_s: float, kill_after_s: float, concurrency: int) -> None:
        self._command = list(command)
        self._timeout_s = timeout_s
        self._kill_after_s = kill_after_s
        # For each command one thread that waits for its end, and one that writes its standard error.
        self._threads = ThreadPoolExecutor(2 * concurrency, thread_name_prefix="command")
        self._numbers = itertools.count()
        self._to_guard, guard_end = socket.socketpair()
        self._guard = subprocess.Popen(  # noqa: S603 (this very program)
            [sys.executable, "-I", "-S", guard.__file__, f"{kill_after_s:g}"],
            stdin=guard_end.fileno(),
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        guard_end.close()

    async def obstacle(self) -> WorkVerdict | None:
        """Whether the command is there and can run."""
        program = self._command[0]
        if shutil.which(program) is not None:
            return None
        found = os.sep in program and os.path.exists(program)  # noqa: ASYNC240, PTH110 (a look at a path)
        return _cannot_run(program, NOT_EXECUTABLE if found else NOT_FOUND)

    async def run(self, job: TakenJob, giving_back: asyncio.Event) -> WorkVerdict:
        """See worker.Runner."""
        loop = asyncio.get_running_loop()
        number = next(self._numbers)
        try:
            process = await loop.run_in_executor(self._threads, self._start, job, number)
        except OSError as exc:
            return self._not_started(exc)
        logger.debug("%s: process %d runs", job, process.pid)
        exited: asyncio.Future[Any] = loop.run_in_executor(self._threads, process.wait)
        errors = StandardErrorCopy(self._threads)
        reading = asyncio.ensure_future(errors.read(process.stderr))  # type: ignore[arg-type]
        asked: asyncio.Future[Any] = asyncio.ensure_future(giving_back.wait())
        try:
            done, _ = await asyncio.wait(
                {exited, asked}, timeout=self._timeout_s or None, return_when=asyncio.FIRST_COMPLETED
            )
            if exited not in done:
                await self._end(job, process, exited)
            await asyncio.wait({reading}, timeout=_REST_S)
        finally:
            asked.cancel()
            reading.cancel()
            if not exited.done():
                self._signal(process, signal.SIGKILL)
            self._tell_guard(b"-%d\n" % number)
        code = process.returncode
        logger.debug("%s: process %d ended: %d", job, process.pid, code)
        if exited in done:
            return verdict.of_exit(code, errors.end)
        if asked in done:
            return WorkVerdict(Action.GIVE_BACK, "given back, because the worker stops")
        return WorkVerdict(
            Action.NACK, verdict.reason(f"the command ran longer than {self._timeout_s:g} s (--timeout)", errors.end)
        )

    async def close(self) -> None:
        """Ends the guard. No command runs."""
        self._threads.shutdown(wait=False)
        self._to_guard.close()
        self._guard.wait()

    def _start(self, job: TakenJob, number: int) -> subprocess.Popen[bytes]:
        """Starts the command. Blocks. Raises OSError."""

        def introduce() -> None:
            self._tell_guard(b"+%d %d\n" % (number, os.getpid()))

        with _unnamed_file() as body:
            body.write(job.body)
            body.seek(0)
            try:
                return subprocess.Popen(  # noqa: S603 (the user's command, without a shell)
                    self._command,
                    stdin=body,
                    stderr=subprocess.PIPE,
                    env=self._environment(job),
                    start_new_session=True,
                    preexec_fn=introduce,  # noqa: PLW1509 (one system call, and no lock that another thread may have)
                )
            except OSError:
                self._tell_guard(b"-%d\n" % number)
                raise

    def _environment(self, job: TakenJob) -> dict[bytes, bytes]:
        own = {
            "KESTREL_JOB_ID": job.id,
            "KESTREL_JOB_QUEUE": job.queue,
            "KESTREL_JOB_ATTEMPT": str(job.attempt),
            "KESTREL_JOB_CONTENT_TYPE": job.content_type,
        }
        if job.batch_attempt:
            own["KESTREL_JOB_COUNT"] = str(job.jobs)
        if self._timeout_s:
            ends = datetime.fromtimestamp(time.time() + self._timeout_s, UTC)
            own["KESTREL_JOB_DEADLINE"] = ends.isoformat(timespec="seconds").replace("+00:00", "Z")
        own |= {name.upper(): job.headers[name] for name in ("traceparent", "tracestate") if name in job.headers}
        own |= {f"ce_{name}": value for name, value in job.attributes.items()}
        inherited = {
            name: value for name, value in os.environb.items() if not name.startswith((b"KESTREL_JOB_", b"ce_"))
        }
        # Variables are text without NUL.
        return inherited | {name.encode(): value.encode().replace(b"\0", b"") for name, value in own.items()}

    def _not_started(self, exc: OSError) -> WorkVerdict:
        program = self._command[0]
        if isinstance(exc, FileNotFoundError) and shutil.which(program) is not None:
            what = f"{program} cannot run: the interpreter that its first line names was not found"
            return WorkVerdict(Action.GIVE_BACK, what, stop=NOT_FOUND)
        if isinstance(exc, FileNotFoundError):
            return _cannot_run(program, NOT_FOUND)
        if isinstance(exc, PermissionError) or exc.errno == errno.ENOEXEC:
            return _cannot_run(program, NOT_EXECUTABLE)
        if exc.errno in _BUSY:
            return WorkVerdict(Action.GIVE_BACK, f"{program} cannot be started now: {exc.strerror}", unavailable=True)
        return WorkVerdict(Action.NACK, f"{program} cannot be started: {exc.strerror}")

    async def _end(self, job: TakenJob, process: subprocess.Popen[bytes], exited: asyncio.Future[Any]) -> None:
        """Ends the command and all that it has started in its group."""
        logger.debug("%s: SIGTERM is sent to process %d", job, process.pid)
        self._signal(process, signal.SIGTERM)
        await asyncio.wait({exited}, timeout=self._kill_after_s)
        self._signal(process, signal.SIGKILL)
        await exited

    @staticmethod
    def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    def _tell_guard(self, line: bytes) -> None:
        with contextlib.suppress(OSError):  # the guard was killed: that ends no command
            self._to_guard.send(line, _NO_SIGNAL)


class StandardErrorCopy:
    """Copies the standard error of a command to the worker's. end: its last bytes."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self.end = b""
        self._threads = threads

    async def read(self, pipe: IO[bytes]) -> None:
        """Returns at the end of the pipe. Cancelled: the pipe is closed."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=_CHUNK)
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        try:
            while chunk := await reader.read(_CHUNK):
                self.end = (self.end + chunk)[-_KEPT_BYTES:]
                await loop.run_in_executor(self._threads, _write_all, chunk)
        finally:
            transport.close()


def _write_all(data: bytes) -> None:
    with contextlib.suppress(OSError):  # nobody reads the worker's standard error
        while data:
            data = data[os.write(2, data) :]


def _unnamed_file() -> IO[bytes]:
    """In memory where the system has such files, because a container may have no file system that can be written."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("job"), "w+b")
    return tempfile.TemporaryFile()


def _cannot_run(program: str, code: int) -> WorkVerdict:
    what = "was not found" if code == NOT_FOUND else "is not executable"
    if " " in program:
        what += "; no shell is used: give its arguments without quotes, or write --exec sh -c '...'"
    return WorkVerdict(Action.GIVE_BACK, f"{program} {what}", stop=code)
