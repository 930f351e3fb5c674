"""A worker's connection to the counter of places.

A worker without a supervisor, such as one under another ASGI server, counts for itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Iterable
from pathlib import Path

from gateway.delivery.caps import messages
from gateway.delivery.caps.counter import CapCounter, CapLimits, CapReason, CapReply

log = logging.getLogger(__name__)

OWN = "self"


class CapLink:
    """directory: where the counter's socket is."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / messages.SOCKET
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[CapReason | None]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._own = CapCounter()
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Connects, if there is a counter."""
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            reader, self._writer = await asyncio.open_unix_connection(self._path)
            self._reading = asyncio.create_task(self._read(reader), name="replies of the counter of places")

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def ask(self, key: str, limits: CapLimits) -> tuple[int, asyncio.Future[CapReason | None]]:
        """Asks for a place; its number, and a future that is None if it is given, or the reason if it is not."""
        number = next(self._numbers)
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        self._send(messages.message(messages.ASK, number, key, limits))
        return number, future

    def stop(self, number: int) -> None:
        """The place is no longer waited for; the future is done soon."""
        if number in self._asked:
            self._send(messages.message(messages.STOP, number))

    def abandon(self, number: int, given: asyncio.Future[CapReason | None]) -> None:
        """The caller of `ask` does not use the place, whether it is given or not."""
        if given.done():
            self.done(number)
        else:
            given.cancel()  # a place that is given nevertheless is returned
            self.stop(number)

    def leased(self, number: int) -> None:
        """The place is a lease now."""
        self._send(messages.message(messages.LEASED, number))

    def hold(self, key: str, limits: CapLimits) -> int:
        """Takes a place for a lease that exists already."""
        number = next(self._numbers)
        self._send(messages.message(messages.HOLD, number, key, limits))
        return number

    def limit(self, key: str, limits: CapLimits) -> None:
        """The limits of the queue have changed."""
        self._send(messages.message(messages.LIMIT, 0, key, limits))

    def done(self, number: int) -> None:
        """The place is free."""
        self._send(messages.message(messages.DONE, number))

    def _send(self, line: bytes) -> None:
        if self._writer is not None:
            self._writer.write(line)
        else:
            self._replied(messages.receive(self._own, OWN, line, asyncio.get_running_loop().time()))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while (line := await reader.readline()).endswith(b"\n"):
                self._answer(*messages.unpack_reply(line))
        except ConnectionError:
            pass  # the supervisor was killed
        except (OSError, ValueError, KeyError):
            log.exception("the connection to the counter of queue limits failed")

    def _replied(self, replies: Iterable[CapReply]) -> None:
        for place, reason in replies:
            self._answer(place.number, reason)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._own.next_at < float("inf"):
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(self._own.next_at, lambda: self._replied(self._own.due(loop.time())))

    def _answer(self, number: int, reason: CapReason | None) -> None:
        future = self._asked.pop(number, None)
        if future is not None and not future.done():
            future.set_result(reason)
        elif reason is None:
            self.done(number)
