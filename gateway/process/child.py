"""One child process of the supervisor: started, watched through its channel, restarted when it dies.

Owns the process and the supervisor's end of the channel. supervisor.py decides which children exist and in which order
they start and stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import logging
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any, Final

from gateway.common.channel import GROUP_SIGNALS, encode
from gateway.common.counted import counted
from gateway.common.states import check_move

log = logging.getLogger(__name__)

# A child that dies once is back at once; one that dies each time costs little CPU and few log lines.
BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MOST_S: Final = 5.0
# A child that dies this many times before it was ever ready is not started again.
FIRST_STARTS: Final = 5
# After a child has lived this long, the next backoff is the first one again.
SETTLED_S: Final = 10.0
# The time between the end of a child's channel and the end of the process.
EXIT_S: Final = 1.0


class ChildState(enum.Enum):
    """The states of a child."""

    DOWN = "down"
    STARTING = "starting"
    READY = "ready"
    STOPPED = "stopped"


MOVES: Final = {
    ChildState.DOWN: frozenset({ChildState.STARTING, ChildState.STOPPED}),
    ChildState.STARTING: frozenset({ChildState.READY, ChildState.DOWN}),
    ChildState.READY: frozenset({ChildState.DOWN}),
    ChildState.STOPPED: frozenset[ChildState](),
}


class Child:
    """A child process that is restarted until `end` is called."""

    def __init__(
        self,
        name: str,
        command: Callable[[int], list[str]],
        *,
        inherited: tuple[int, ...] = (),
        first_message: dict[str, Any] | None = None,
    ) -> None:
        """`command` makes the argument vector from the number of the channel's descriptor. `inherited` are further
        descriptors for the child. `first_message` is the first message of each life."""
        self.name = name
        self.state = ChildState.DOWN
        self.unusable = False  # another start would fail in the same way
        self.ready = asyncio.Event()  # set when it is ready for the first time
        self.draining = asyncio.Event()  # it has begun to drain, or has ended
        self.drained = asyncio.Event()  # it has no lease left, or has ended
        self.closed = asyncio.Event()  # it no longer accepts connections, or has ended
        self._reported = {"draining": self.draining, "drained": self.drained, "closed": self.closed}
        self._command = command
        self._inherited = inherited
        self.first_message = first_message
        self._ending = asyncio.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        """Keeps the child running until `end` is called, then returns when it is gone. Also returns, with `ready` not
        set, when the child has died FIRST_STARTS times without ever being ready, or once if it is unusable."""
        backoff_s = BACKOFF_FIRST_S
        starts = 0
        while not self._ending.is_set():
            starts += 1
            began = time.monotonic()
            status = await self._live()
            if self._ending.is_set():
                break
            if not self.ready.is_set() and self.unusable:
                break  # its own line says why
            if not self.ready.is_set() and starts >= FIRST_STARTS:
                log.error("%s could not start (%s), %s in a row", self.name, status, counted(starts, "time"))
                break
            if time.monotonic() - began > SETTLED_S:
                backoff_s = BACKOFF_FIRST_S
            log.warning("%s died (%s); restarting it in %g s", self.name, status, backoff_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), backoff_s)
            backoff_s = min(BACKOFF_MOST_S, backoff_s * 2)
        self._move(ChildState.STOPPED)
        for event in self._reported.values():
            event.set()

    def tell(self, command: str) -> None:
        """Sends a command. A child that is down misses it."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(encode({"command": command}))

    def end(self, command: str) -> None:
        """Ends the child, by `drain` or at once by `stop`. It is not started again."""
        self._ending.set()
        self.tell(command)

    def kill(self) -> None:
        """Kills the process."""
        self._ending.set()
        if self._process is not None and self._process.poll() is None:
            log.warning("%s did not end in time; killing it", self.name)
            self._process.kill()

    async def _live(self) -> str:
        """One life of the child, from start to end. Returns how it ended."""
        self._move(ChildState.STARTING)
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = process = self._spawn(theirs)
            except OSError as exc:
                ours.close()
                self._move(ChildState.DOWN)
                return f"not started: {exc.strerror}"
        reader, self._writer = await asyncio.open_connection(sock=ours)
        try:
            if self.first_message is not None:
                self._writer.write(encode(self.first_message))
            if self._ending.is_set():
                self.tell("stop")  # the command came before the child could receive it
            await self._listen(reader)
        finally:
            self._writer.close()
            self._writer = None
        status = await asyncio.to_thread(_reap, process)
        self._process = None
        self._move(ChildState.DOWN)
        return status

    def _spawn(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        # The child inherits the signal mask, so no signal to the group can hit it before it ignores them.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
        try:
            return subprocess.Popen(
                self._command(theirs.fileno()),
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *self._inherited),
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """Receives the child's messages until its end of the channel closes."""
        with contextlib.suppress(ConnectionError):
            async for line in reader:
                try:
                    message = json.loads(line)
                except ValueError:
                    continue  # an incomplete line of a child that was killed
                event = message.get("event")
                if event == "ready" and self.state is ChildState.STARTING:
                    self._move(ChildState.READY)
                    self.ready.set()
                elif event == "unusable":
                    self.unusable = True
                elif event in self._reported:
                    self._reported[event].set()

    def _move(self, to: ChildState) -> None:
        check_move(self.name, MOVES, self.state, to)
        self.state = to


def _reap(process: subprocess.Popen[bytes]) -> str:
    """Waits for the end of a process whose channel has closed; kills it after a while. Returns how it ended."""
    try:
        status = process.wait(EXIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        status = process.wait()
    return f"signal {-status}" if status < 0 else f"exit code {status}"
