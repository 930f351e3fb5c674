"""Whether one server answers: a task asks it at intervals, and tries to connect to it while it does not answer.

Owns the times of questions and attempts, and the deadline of each question. The server decides what follows.

1. While it answers, it is asked for `status` (`version` if it has no `status`): LOOK_PART of the command timeout after
   the last question or change of state, at most EVERY_S (AGAIN_S while it is not UP), and at once after `now`. The
   answer must come within LOOK_PART of the command timeout. So a server that freezes is detected within the command
   timeout, even if it is not used. Blocked gets cannot detect it: a frozen server looks like an empty queue.
2. A connection that is quiet for `ping_after_s` is asked for the version, before Kestrel's limit for idle connections.
3. While it does not answer, the task tries to connect: at once, then after growing pauses, one connection at a time.
   `try_now` ends a pause that has lasted LEAST_PAUSE_S.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from functools import partial
from typing import Any, Final, Protocol

from pymemcache.exceptions import MemcacheError

from gateway.errors import BackendUnavailable
from gateway.kestrel.backoff import pause_s
from gateway.kestrel.counters import Counters
from gateway.kestrel.health import BY_STATUS, Health, ServerHealth
from gateway.kestrel.server.commands import ServerCommands
from gateway.kestrel.server.open_connections import OpenConnections
from gateway.kestrel.wire.codec import KestrelClient
from gateway.kestrel.wire.connection import Connection, ConnectionLostError, ConnectionState

LOOK_PART: Final = 0.45
"""Two of them, for the time until a question and for its answer, are less than the command timeout."""
EVERY_S: Final = 5.0
"""The longest time between two questions; with the default command timeout it is 2.25 s."""
AGAIN_S: Final = 1.0
"""The time between two questions while the server answers and is not UP, so that it is used again soon."""
SOON_S: Final = 0.02
"""The time until the next question after one without an answer, while the server counts as answering."""
LEAST_PAUSE_S: Final = 0.1
"""The shortest time after a failed attempt before `try_now` starts the next one. The pauses of rule 3 may be shorter at
first."""
PING_AFTER_S: Final = 30.0
"""The default quiet time of a connection. Firewalls forget connections after minutes: RFC 5382, REQ-5."""
PINGS_AT_ONCE: Final = 32
"""The most pings in flight, so that thousands of open reads are not asked in one turn of the loop."""


class CheckedServer(Protocol):
    """The server. try_connect: makes a connection and learns what the server is; raises BackendUnavailable."""

    timeout_s: float
    health: ServerHealth
    connections: OpenConnections
    commands: ServerCommands

    async def try_connect(self) -> None: ...


class Liveness:
    """The task that asks one server. ping_after_s: see rule 2."""

    def __init__(self, server: CheckedServer, counters: Counters, ping_after_s: float) -> None:
        self._server = server
        self._counters = counters
        self._ping_after_s = ping_after_s
        self._part_s = LOOK_PART * server.timeout_s
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._ask_at = 0.0
        self._ping_at = 0.0
        self._failed_at: float | None = None
        self._quiet: deque[Connection] = deque()
        self._pinging = 0
        self._connects = True
        self.tried = asyncio.Event()
        """Set when the first attempt to connect has ended."""

    def start(self, name: str) -> None:
        """Starts with an attempt to connect."""
        self._task = self._loop.create_task(self._run(), name=name)

    def connect_no_more(self) -> None:
        """The server leaves: it is asked as long as it answers, and an attempt to connect is cancelled."""
        self._connects = False
        if self._task is not None and not self._server.health.answers:
            self._task.cancel()

    async def close(self) -> None:
        """Ends all questions and attempts."""
        self._connects = False
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def changed(self) -> None:
        """The server's state has changed: the time until the next question restarts, and a lost server is tried."""
        unwell = self._server.health.answers and self._server.health.state is not Health.UP
        self._ask_at = self._loop.time() + max(SOON_S, min(AGAIN_S if unwell else EVERY_S, self._part_s))
        self._wake.set()

    def now(self) -> None:
        """Asks at once. The caller does not wait for the answer."""
        self._ask_at = 0.0
        self._wake.set()

    def try_now(self) -> bool:
        """Whether an attempt to connect is in progress or could be started."""
        if not self._connects or self._task is None:
            return False
        if self._failed_at is not None:
            if self._loop.time() - self._failed_at < LEAST_PAUSE_S:
                return False
            self._wake.set()
        return True

    async def _run(self) -> None:
        failures = 0
        while self._server.health.answers or self._connects:
            if not self._server.health.answers:
                try:
                    await self._server.try_connect()
                except BackendUnavailable:
                    self.tried.set()
                    failures += 1
                    self._failed_at = self._loop.time()
                    await self._sleep_until(self._failed_at + pause_s(failures))
                    self._failed_at = None
                    continue
                self.tried.set()
                failures = 0
            await self._sleep_until(min(self._ask_at, self._ping_at))
            now = self._loop.time()
            if now >= self._ping_at:
                self._ping_at = now + self._ping_after_s / 4
                self._ping_quiet(now)
            if self._server.health.answers and now >= self._ask_at:
                await self._ask()

    async def _sleep_until(self, at: float) -> None:
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(at):
                await self._wake.wait()

    async def _ask(self) -> None:
        capabilities = self._server.health.capabilities
        by_status = capabilities is None or capabilities.status
        self.changed()
        try:
            async with asyncio.timeout(self._part_s):
                connection = await self._server.commands.acquire()
            command = KestrelClient.ask_status if by_status else KestrelClient.ask_version
            answer = await connection.call(self._part_s, command)
        except (BackendUnavailable, ConnectionLostError, MemcacheError, TimeoutError):
            # a server that refuses closes the connection that was used last
            self._ask_at = min(self._ask_at, self._loop.time() + SOON_S)
            return
        self._server.commands.release(connection)
        if by_status:
            self._server.health.has_said(BY_STATUS[answer])

    def _ping_quiet(self, now: float) -> None:
        quiet = (each for each in self._server.connections if now - each.quiet_since >= self._ping_after_s)
        self._quiet = deque(each for each in quiet if each.state in (ConnectionState.IDLE, ConnectionState.PINNED))
        self._ping_next()

    def _ping_next(self) -> None:
        while self._quiet and self._pinging < PINGS_AT_ONCE:
            connection = self._quiet.popleft()
            if connection.state is ConnectionState.PINNED or self._server.commands.checkout_this(connection):
                self._pinging += 1
                self._counters.pings += 1
                then = partial(self._pinged, connection)
                connection.start(then, self._server.timeout_s, KestrelClient.ask_version)

    def _pinged(self, connection: Connection, _value: Any, _error: BaseException | None) -> None:
        self._pinging -= 1
        if connection.state is ConnectionState.IDLE:
            self._server.commands.release(connection)
        self._ping_next()
