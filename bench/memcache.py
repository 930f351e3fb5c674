"""Stores items on a memcache-protocol queue server: one at a time a connection, or a flood to fill a queue."""

from __future__ import annotations

import asyncio

from bench.wire import LoadConnection, LoadError, split_address

STORED = b"STORED\r\n"
PIPELINED = 500


def set_command(queue: str, item: bytes) -> bytes:
    """A whole `set`."""
    return b"set %b 0 0 %d\r\n%b\r\n" % (queue.encode(), len(item), item)


class StoreConnection(LoadConnection):
    """One connection. answered(connection, status, answer): called for each line of reply; status is its first word."""

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\r\n")
        for line in lines:
            self._answered(self, line.partition(b" ")[0], line)


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
