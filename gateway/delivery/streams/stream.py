"""One stream: takes jobs while its window has room and its client reads, and ends for one reason.

1. Nothing is taken while the client has not read almost all that was written before. So a stream holds little more than
   what one take has brought.
2. When the client ends the stream, every job in the window goes back at once, in order. A job that was not sent uses no
   attempt.
3. After an `end`, leases stay as they are, except those of jobs that the client cannot have: they go back.
4. A lease that expires before its job is sent ends the stream. As many expired leases in a row as the window holds, and
   at least LEAST_EXPIRED, end it, too, if the client settles nothing meanwhile. Nothing is sent while such leases
   expire: their jobs may be back before they have ended.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar

from gateway.delivery.streams.end import CLIENT_GONE, DRAIN, LIFETIME, UNREAD, UNSETTLED, StreamEnd, end_by
from gateway.delivery.streams.open_streams import OpenStreams
from gateway.delivery.streams.source import StreamedJob, StreamSource
from gateway.delivery.streams.window import StreamWindow
from gateway.errors import GatewayError
from gateway.fairness.turns import Turns

T = TypeVar("T")

POLL_S: Final = 30.0
"""How long one poll of a stream waits for a job; the next one follows at once."""
LEAST_EXPIRED: Final = 3
TURN_JOBS: Final = 32
"""A stream waits for its turn after this many jobs, so that it does not hold up other work."""


class StreamOutput(Protocol):
    """Writes a stream to its client. sent_bytes: the place in the stream up to which all is with the kernel.

    delivered: whether all was sent to a client that was there.
    """

    @property
    def sent_bytes(self) -> int: ...
    @property
    def delivered(self) -> bool: ...
    def on_gone(self, callback: Callable[[], None]) -> Callable[[], None]: ...
    async def writable(self) -> None:
        """Returns when the client has read almost all that was written."""

    async def jobs(self, jobs: Sequence[StreamedJob]) -> int:
        """Writes them; returns the place in the stream where they end. Raises TooManyBytes."""

    async def opened(self) -> None: ...
    async def keepalive(self) -> None:
        """Writes a keepalive line, unless the client still has to read."""

    async def ended(self, end: StreamEnd) -> None:
        """Writes the last line."""


class JobStream:
    """window: of the jobs in it. holder: of their leases.

    keepalive_s: the time from the last line to a keepalive line.
    lifetime_s: the stream ends after it. operator: whether the client may see the addresses of servers. permission:
    raises the error with which the stream ends if the client may not take its jobs any more.
    """

    def __init__(
        self,
        streams: OpenStreams,
        source: StreamSource,
        output: StreamOutput,
        turns: Turns,
        *,
        holder: str,
        window_jobs: int,
        window_bytes: int,
        keepalive_s: float,
        lifetime_s: float,
        operator: bool,
        permission: Callable[[], None],
    ) -> None:
        self._streams = streams
        self._source = source
        self._output = output
        self._turns = turns
        self._keepalive_s = keepalive_s
        self._ends_s = time.monotonic() + lifetime_s
        self._operator = operator
        self._permission = permission
        self._holder = holder
        self._over: StreamEnd | None = None
        self._on_over: dict[Callable[[], None], None] = {}
        self._blocked: asyncio.Timeout | None = None
        self._wrote_s = 0.0
        self._expired = 0
        self._settled = 0
        self._first: list[StreamedJob] = []
        self._window = StreamWindow(
            streams.windows,
            streams.limits,
            source.tenant,
            jobs=window_jobs,
            limit_bytes=window_bytes,
            on_expired=self._expired_at,
        )
        streams.add(self)
        self._forget = output.on_gone(lambda: self.end(CLIENT_GONE))

    async def begin(self) -> None:
        """Takes the jobs that are there now. Raises what Receiver.next raises; then the stream is closed."""
        try:
            self._first = await self._take(0)
        except BaseException:
            self.close()
            raise

    async def run(self) -> None:
        """Returns when the stream has ended; call `close` then. Cancelled: every job in the window goes back."""
        self._wrote_s = time.monotonic()
        keepalive = asyncio.create_task(self._keep_alive(), name="keepalive lines of a stream")
        lifetime = asyncio.get_running_loop().call_later(self._ends_s - time.monotonic(), self.end, LIFETIME)
        try:
            await self._output.opened()
            await self._deliver()
        except GatewayError as error:
            self.end(end_by(error, operator=self._operator))
        finally:
            lifetime.cancel()
            keepalive.cancel()
            await asyncio.gather(keepalive, return_exceptions=True)
        if self._over is not None and self._over is not CLIENT_GONE:
            sent = self._output.sent_bytes if self._over is UNREAD else sys.maxsize
            self._streams.give_back(self._window.jobs_beyond(sent), sent)
            self._window.close()
            await self._output.ended(self._over)

    def end(self, end: StreamEnd) -> None:
        """Ends the stream soon, unless it has ended."""
        if self._over is not None:
            return
        self._over = end
        self._window.wake()
        callbacks, self._on_over = list(self._on_over), {}
        for callback in callbacks:
            callback()
        if self._blocked is not None:
            self._blocked.reschedule(asyncio.get_running_loop().time())

    def drain(self) -> None:
        """The gateway shuts down."""
        self.end(DRAIN)

    def check_permission(self) -> None:
        """See OpenStream."""
        try:
            self._permission()
        except GatewayError as error:
            self.end(end_by(error, operator=self._operator))

    def close(self) -> None:
        """Gives back every job in the window, unless the end of the stream has reached the client."""
        self._forget()
        self._window.close()
        if not self._output.delivered:
            self._over = self._over or CLIENT_GONE
            self._streams.give_back(self._window.jobs_beyond(-1), self._output.sent_bytes)
        self._streams.remove(self)

    async def _deliver(self) -> None:
        found, self._first = self._first, []
        since_turn = 0
        while self._over is None:
            if found:
                await self._write(found)
                since_turn += len(found)
            if since_turn >= TURN_JOBS:
                since_turn = 0
                await self._turns.next(self._source.tenant)
            await self._while_open(self._output.writable())
            while self._over is None and not self._window.room:
                await self._window.change()
            found = await self._take(POLL_S) if self._over is None else []
            while found and self._over is None and self._expires():
                await self._window.change()
        if found and self._over not in (CLIENT_GONE, UNSETTLED):  # taken while the stream ended
            await self._write(found)

    async def _take(self, timeout_s: float) -> list[StreamedJob]:
        """The next jobs; none if there are none in time, or the stream has ended. Raises what Receiver.next raises."""
        window, source = self._window, self._source
        taken = await source.next(min(window.room, source.most), timeout_s, self._when_over, window)
        for each in taken:
            each.lease.holder = self._holder
        return [each for each in taken if source.at_most_once or window.add(each.lease)]

    async def _write(self, taken: Sequence[StreamedJob]) -> None:
        ends_at = await self._while_open(self._output.jobs(taken))
        self._wrote_s = time.monotonic()
        if ends_at is not None:
            for each in taken:
                self._window.written(each.lease, ends_at)

    async def _while_open(self, writing: Awaitable[T]) -> T | None:
        """The result; None if the stream has ended before. A job that is written at its end has no time to wait."""
        try:
            async with asyncio.timeout(None if self._over is None else 0) as self._blocked:
                return await writing
        except TimeoutError:
            return None
        finally:
            self._blocked = None

    def _when_over(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls `callback` when the stream ends. Implements backend.OnGone."""
        if self._over is not None:
            callback()
        else:
            self._on_over[callback] = None
        return lambda: self._on_over.pop(callback, None)

    def _expired_at(self, ends_at: float) -> None:
        """The lease of a job has expired. ends_at: the place in the stream where the job ends."""
        if ends_at > self._output.sent_bytes:
            self.end(UNREAD)
            return
        if self._settled != self._window.settled:
            self._settled, self._expired = self._window.settled, 0
        self._expired += 1
        if self._expired >= self._most_expired:
            self.end(UNSETTLED)

    def _expires(self) -> bool:
        """Whether the leases that expire now will end the stream, by rule 4."""
        expired = self._expired if self._settled == self._window.settled else 0
        return expired + self._window.expiring >= self._most_expired

    @property
    def _most_expired(self) -> int:
        return max(LEAST_EXPIRED, self._window.jobs)

    async def _keep_alive(self) -> None:
        while True:
            left_s = self._wrote_s + self._keepalive_s - time.monotonic()
            if left_s > 0:
                await asyncio.sleep(left_s)
            else:
                self._wrote_s = time.monotonic()
                await self._output.keepalive()
