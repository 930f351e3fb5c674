"""Kestrel as the layers above see it: queues by key, one server or several that do not know of one another.

Owns the servers and which of them is asked: writes go to one that answers, waits stand on all, numbers are added up.
Knows no HTTP, no tenants and no leases.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from pymemcache.exceptions import MemcacheClientError, MemcacheError, MemcacheUnknownCommandError

from gateway.errors import BackendUnavailable, GatewayError
from gateway.kestrel.address import parse_address
from gateway.kestrel.codec import Codecs, KestrelClient
from gateway.kestrel.connection import ConnectionLostError
from gateway.kestrel.counters import Counters, Statistics, snapshot
from gateway.kestrel.server import Backend, Health, Server
from gateway.kestrel.stats import QueueStats, parse_dump, parse_stats
from gateway.kestrel.trouble import not_asked, perhaps_done
from gateway.kestrel.waiting import Lines, Waiter
from gateway.kestrel.writer import Writer
from gateway.settings import Settings


class Kestrel:
    """The client side of Kestrel. Made, started, used and closed on one event loop."""

    def __init__(self, addresses: Sequence[str], settings: Settings) -> None:
        """`addresses`: at least one `host:port`, `[v6]:port` or `unix:PATH`. Raises: SettingsError."""
        if not addresses:
            raise ValueError("no Kestrel server is named")
        self._parsed = [parse_address(address) for address in addresses]
        self._settings = settings
        self._counters = Counters()
        self._codecs = Codecs()
        self._servers: list[Server] = []
        self._writers: list[Writer] = []
        self._lines = self._make_lines()

    async def start(self) -> None:
        """Begins connecting in the background; a server that cannot be reached is tried again and again."""
        self._servers = [
            Server(address, self._settings, self._codecs, self._counters, self._server_up) for address in self._parsed
        ]
        self._lines = self._make_lines()
        self._writers = [Writer(server) for server in self._servers]
        for server in self._servers:
            server.start()

    async def close(self) -> None:
        """Ends every wait with BackendUnavailable and closes every connection; open reads go back by that."""
        self._lines.close(BackendUnavailable("the gateway is shutting down"))
        for server in self._servers:
            await server.close()
        for writer in self._writers:
            await writer.close()
        self._codecs.close()

    # Jobs

    async def put(self, key: str, data: bytes, expiry: int = 0) -> None:
        """The item is stored: the server answered STORED. `expiry` as on the wire: 0 never, else seconds.

        Raises: QueueFull; BackendUnavailable when nothing was sent, BackendRefused when the server said no;
        OutcomeUnknown when it was sent and no clean answer came. Cancelled: it may have been stored.
        """
        for writer in self._writable():
            try:
                await writer.put(key, data, expiry)
            except BackendUnavailable as error:
                failure = error
                continue
            return
        raise failure

    async def put_many(self, key: str, items: Sequence[tuple[bytes, int]]) -> list[GatewayError | None]:
        """Stores many items, each `(data, expiry)`, in order; one outcome each, None for stored, else as `put` raises.

        Cancelled: any of them may have been stored.
        """
        if not items:
            return []
        outcomes: list[GatewayError | None] = []
        for writer in self._writable():
            stored = await asyncio.gather(
                *(writer.put(key, data, expiry) for data, expiry in items), return_exceptions=True
            )
            for each in stored:
                if each is not None and not isinstance(each, GatewayError):
                    raise each
            outcomes = [each for each in stored if each is None or isinstance(each, GatewayError)]
            if not all(isinstance(each, BackendUnavailable) for each in outcomes):
                break
        return outcomes

    def wait(self, key: str, timeout_s: float) -> Waiter:
        """Joins those who wait for the queue's next item. `timeout_s` 0: asks once and answers at once.

        Whoever waits awaits `result` or calls `cancel`: an item that is his stays set aside until then, at the
        longest until his deadline.
        """
        return self._lines.wait(key, timeout_s)

    async def peek(self, key: str) -> bytes | None:
        """The head item, left where it is, or None. Creates the queue. Raises: BackendUnavailable."""
        for item in await self._ask_all(KestrelClient.peek, key):
            if item is not None:
                return bytes(item)
        return None

    # Queues

    async def queues(self) -> dict[str, QueueStats]:
        """Every queue by its key, added up over the servers. Raises: BackendUnavailable when none answers."""
        return await self._stats()

    async def stats_of(self, key: str) -> QueueStats | None:
        """One queue, added up over the servers; None when none of them has it. Creates none. Raises: as `queues`."""
        return (await self._stats(key)).get(key)

    async def _stats(self, *keys: str) -> dict[str, QueueStats]:
        total: dict[str, QueueStats] = {}
        failure: BackendUnavailable | None = None
        answers = 0
        for server in self._servers:
            try:
                queues = await _stats(server, keys)
            except BackendUnavailable as error:
                failure = error
                continue
            answers += 1
            for key, stats in queues.items():
                total[key] = total[key] + stats if key in total else stats
        if failure is not None and not answers:
            raise failure
        return total

    async def flush(self, key: str) -> None:
        """The queue is empty but for what is set aside. Raises: BackendUnavailable, OutcomeUnknown."""
        await self._change_all(KestrelClient.flush, key)

    async def delete(self, key: str) -> None:
        """The queue is gone, with its open reads. Raises: BackendUnavailable, OutcomeUnknown."""
        await self._change_all(KestrelClient.drop, key)

    # How it stands

    @property
    def available(self) -> bool:
        """Whether some server answers."""
        return any(server.state is Health.UP for server in self._servers)

    def backends(self) -> list[Backend]:
        """Every server and how it stands."""
        return [server.backend() for server in self._servers]

    def statistics(self) -> Statistics:
        """What has been done so far, and what is under way."""
        counts = [server.connections() for server in self._servers]
        return snapshot(
            self._counters,
            connections=sum(sum(count.values()) for count in counts),
            pinned=sum(count.get("pinned", 0) for count in counts),
            waiters=self._lines.waiters,
            standing_waits=self._lines.standing,
            waited_queues=len(self._lines),
        )

    def _server_up(self, server: Server) -> None:
        self._lines.server_up(server)

    def _make_lines(self) -> Lines:
        settings = self._settings
        patience_s = settings.kestrel_connect_timeout_s + settings.kestrel_command_timeout_s
        return Lines(self._servers, settings.kestrel_waits, patience_s, self._counters)

    def _writable(self) -> Sequence[Writer]:
        """The servers in the order in which a write tries them: those that answer first, at random."""
        if len(self._servers) == 1:
            return self._writers
        if not self._servers:
            raise BackendUnavailable("the Kestrel client is not started")
        order = random.sample(range(len(self._servers)), len(self._servers))
        order.sort(key=lambda index: self._servers[index].state is not Health.UP)
        return [self._writers[index] for index in order]

    async def _ask_all(self, command: Any, key: str) -> list[Any]:
        answers = []
        failure: BackendUnavailable | None = None
        for server in self._servers:
            try:
                answers.append(await server.ask(command, key))
            except BackendUnavailable as error:
                failure = error
        if failure is not None and not answers:
            raise failure
        return answers

    async def _change_all(self, command: Any, key: str) -> None:
        for server in self._servers:
            try:
                await server.run(command, key)
            except (ConnectionLostError, MemcacheError) as error:
                raise perhaps_done(error, server.address) from error


async def _stats(server: Server, keys: Sequence[str]) -> dict[str, QueueStats]:
    """The queues of these keys, where the server can be asked for some; else all."""
    capabilities = server.capabilities
    try:
        if capabilities is None or capabilities.dump_stats:
            try:
                return parse_dump(await server.run(KestrelClient.dump_stats, *keys))
            except (MemcacheUnknownCommandError, MemcacheClientError):
                pass
        return parse_stats(await server.ask(KestrelClient.all_stats))
    except (ConnectionLostError, MemcacheError, ValueError) as error:
        raise not_asked(error, server.address) from error
