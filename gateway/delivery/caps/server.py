"""Serves the counter of places to the workers of one gateway. Runs in the supervisor, which outlives every worker.

Owns the connections and the timer. The rules: gateway.delivery.caps.counter.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterable
from pathlib import Path

from gateway.delivery.caps.counter import CapCounter, CapReply
from gateway.delivery.caps.messages import SOCKET, pack_reply, receive

log = logging.getLogger(__name__)


class CapServer:
    """Listens in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / SOCKET
        self._counter = CapCounter()
        self._writers: dict[str, asyncio.StreamWriter] = {}
        self._numbers = itertools.count()
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        self._path.chmod(0o600)

    def close(self) -> None:
        """Ends the service; workers count for themselves then."""
        if self._timer is not None:
            self._timer.cancel()
        if self._server is not None:
            self._server.close()
        for writer in self._writers.values():
            writer.close()
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        holder = str(next(self._numbers))
        self._writers[holder] = writer
        try:
            while (line := await reader.readline()).endswith(b"\n"):  # without it: the worker was killed
                self._send(receive(self._counter, holder, line, loop.time()))
        except (OSError, asyncio.CancelledError):
            pass
        except Exception:
            log.exception("a worker's messages to the counter of queue limits cannot be read")
        finally:
            del self._writers[holder]
            self._send(self._counter.gone(holder, loop.time()))
            writer.close()

    def _send(self, replies: Iterable[CapReply]) -> None:
        for reply in replies:
            if (writer := self._writers.get(reply.place.holder)) is not None:
                writer.write(pack_reply(reply))
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._counter.next_at < float("inf") and not loop.is_closed():
            self._timer = loop.call_at(self._counter.next_at, self._due)

    def _due(self) -> None:
        self._timer = None
        self._send(self._counter.due(asyncio.get_running_loop().time()))
