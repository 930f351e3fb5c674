"""Back-pressure of one connection: whether it reads, and whether its client reads what is written."""

from __future__ import annotations

import asyncio


class Flow:
    """Pauses and resumes a transport's reading, and lets writers wait while too much is unsent."""

    __slots__ = ("_transport", "_writable", "read_paused", "write_paused")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._writable = asyncio.Event()
        self._writable.set()
        self.read_paused = False
        self.write_paused = False  # more is unsent than the transport should hold

    async def drain(self) -> None:
        """Returns when writing is not paused."""
        await self._writable.wait()

    def pause_reading(self) -> None:
        if not self.read_paused:
            self.read_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self.read_paused:
            self.read_paused = False
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        self.write_paused = True
        self._writable.clear()

    def resume_writing(self) -> None:
        self.write_paused = False
        self._writable.set()
