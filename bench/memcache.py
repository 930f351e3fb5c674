"""Stores items on a memcache-protocol queue server: one at a time a connection, or a flood to fill a queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from bench.wire import LoadError, split_address

STORED = b"STORED\r\n"
PIPELINED = 500


def set_command(queue: str, item: bytes) -> bytes:
    """A whole `set`."""
    return b"set %b 0 0 %d\r\n%b\r\n" % (queue.encode(), len(item), item)


class StoreConnection(asyncio.Protocol):
    """One connection. answered(connection, status, answer): called for each line of reply; status is its first word."""

    def __init__(self, answered: Callable[[Any, bytes, bytes], None], lost: Callable[[Any], None]) -> None:
        self._answered = answered
        self._lost = lost
        self._rest = b""
        self._closing = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.write = transport.write

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\r\n")
        for line in lines:
            self._answered(self, line.partition(b" ")[0], line)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closing:
            self._lost(self)

    def close(self) -> None:
        """Closes without telling `lost`."""
        self._closing = True
        self._transport.close()


class Fill:
    """Stores `count` equal items over one connection, PIPELINED of them under way at a time."""

    def __init__(self, address: str, queue: str, item: bytes, count: int) -> None:
        self._address = address
        self._command = set_command(queue, item)
        self._count = count

    async def run(self) -> None:
        """Returns when every item is stored. Raises LoadError when one is not."""
        reader, writer = await asyncio.open_connection(*split_address(self._address))
        left = self._count
        while left:
            batch = min(left, PIPELINED)
            writer.write(self._command * batch)
            if await reader.readexactly(len(STORED) * batch) != STORED * batch:
                raise LoadError("not every item was stored")
            left -= batch
        writer.close()
        await writer.wait_closed()
