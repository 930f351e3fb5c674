"""What the worker is doing: running, paused, finishing, or giving back. Signals and limits change it; slots obey it."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

logger: Final = logging.getLogger(__name__)

_MEBIBYTE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class WorkLimits:
    """When the worker ends by itself, between jobs; 0: no limit. max_memory: of the worker itself, in MiB."""

    max_jobs: int = 0
    max_time_s: float = 0
    max_memory: int = 0


class WorkControl:
    """finishing: no further job is taken, because of --max-time if `time_is_up`. giving_back: commands end now, and
    their jobs go back."""

    def __init__(self, limits: WorkLimits) -> None:
        self.finishing = asyncio.Event()
        self.giving_back = asyncio.Event()
        self.exit_code = 0
        self.time_is_up = False
        self._limits = limits
        self._ends_s = math.inf  # monotonic: the end of --max-time
        self._runs = asyncio.Event()
        self._runs.set()
        self._changed = asyncio.Event()
        self._taken = 0

    @property
    def may_take(self) -> bool:
        return self._runs.is_set() and not self.finishing.is_set()

    @property
    def left_s(self) -> float:
        """The rest of --max-time."""
        return max(0.0, self._ends_s - time.monotonic())

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Obeys signals from here on."""
        loop.add_signal_handler(signal.SIGTERM, self.finish, "SIGTERM")
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
            loop.add_signal_handler(signal.SIGHUP, self.finish, "SIGHUP")
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        loop.add_signal_handler(signal.SIGQUIT, self.give_back, "SIGQUIT")
        loop.add_signal_handler(signal.SIGUSR2, self.pause)
        loop.add_signal_handler(signal.SIGCONT, self.resume)
        if self._limits.max_time_s:
            self._ends_s = time.monotonic() + self._limits.max_time_s
            loop.call_later(self._limits.max_time_s, self._end_by_time)

    def finish(self, why: str, exit_code: int = 0) -> None:
        """No further job is taken. The first reason with an exit code other than 0 decides it."""
        self.exit_code = self.exit_code or exit_code
        if not self.finishing.is_set():
            logger.info("stops taking jobs: %s", why)
            self.finishing.set()
            self._changed.set()

    def give_back(self, why: str) -> None:
        """As `finish`, and the jobs in progress go back to their queue now."""
        self.finish(why)
        self.giving_back.set()

    def pause(self) -> None:
        if self._runs.is_set():
            logger.info("paused by SIGUSR2; send SIGCONT to continue")
            self._runs.clear()
            self._changed.set()

    def resume(self) -> None:
        if not self._runs.is_set():
            logger.info("continues after SIGCONT")
            self._runs.set()

    async def ready(self) -> bool:
        """Waits while the worker is paused. False: no further job may be taken."""
        while not self.finishing.is_set():
            if self._runs.is_set():
                return True
            await _first(self._runs, self.finishing)
        return False

    async def changed(self) -> None:
        """Returns when jobs may no longer be taken, now or soon."""
        while self.may_take:
            self._changed.clear()
            await self._changed.wait()

    async def sleep(self, seconds: float) -> None:
        """Sleeps, unless the worker finishes."""
        try:
            async with asyncio.timeout(seconds):
                await self.finishing.wait()
        except TimeoutError:
            pass

    def reserve(self, most: int) -> int:
        """Counts jobs that are about to be taken: up to `most`, and as many as --max-jobs allows. Returns how many."""
        if self._limits.max_jobs:
            most = min(most, self._limits.max_jobs - self._taken)
        self._taken += most
        return most

    def release(self, count: int) -> None:
        """So many of the reserved jobs did not come."""
        self._taken -= count

    def job_is_done(self) -> None:
        """Ends the worker if a limit is reached."""
        limit = self._limits.max_memory
        if limit and (used := memory_bytes() // _MEBIBYTE) >= limit:
            self.finish(f"--max-memory {limit}: {used} MiB are in use")

    def _end_by_time(self) -> None:
        self.time_is_up = not self.finishing.is_set()
        self.finish(f"--max-time {self._limits.max_time_s:g}")

    def _interrupt(self) -> None:
        """Ctrl-C finishes the jobs in progress; a second one gives them back."""
        if self.finishing.is_set():
            self.give_back("SIGINT")
        else:
            self.finish("SIGINT; a second SIGINT gives the jobs in progress back")


def memory_bytes() -> int:
    """The resident memory of this process; where the system does not tell it, the most that there was."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used if sys.platform == "darwin" else used * 1024


async def _first(*events: asyncio.Event) -> None:
    """Returns when one of the events is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()
