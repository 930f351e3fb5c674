"""The running broker without its sockets: queues, committer, status, limits and counters, shared by all sessions."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from gateway.broker import config as configuration
from gateway.broker.counters import BrokerCounters
from gateway.broker.memory import BufferLimit
from gateway.broker.queues.collection import QueueCollection
from gateway.broker.storage.batch import Ticket
from gateway.broker.storage.committer import Committer
from gateway.broker.storage.database import Database
from gateway.broker.storage.threads import Threads
from gateway.common.limited_log import LimitedLog

log = logging.getLogger(__name__)

VERSION = b"2.4.8"
"""Only digits and dots, because old clients accept nothing else. Source: kestrel-wire.md."""


class Status(IntEnum):
    """The status, by strictness. READONLY accepts no writes, QUIESCENT only settlements."""

    UP = 1
    WRITEAVOID = 2
    READONLY = 3
    QUIESCENT = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line's options. Sizes in bytes."""

    data: Path
    config: Path | None = None
    fsync: bool = True
    max_open_reads: int = 100
    max_item_bytes: int = 64 << 20
    max_connections: int = 16384
    max_buffered_bytes: int = 128 << 20
    lock_wait_s: float = 0.0


class Broker:
    """Process-wide state. Created inside the running loop; raises DatabaseError or ConfigError if it cannot start."""

    def __init__(self, options: Options, loop: asyncio.AbstractEventLoop) -> None:
        self.options = options
        self.loop = loop
        self.counters = BrokerCounters()
        self.started_s = time.monotonic()
        self.on_shutdown: Callable[[], None] = lambda: None
        self.config = configuration.load(options.config)
        self.memory = BufferLimit(options.max_buffered_bytes)
        self._sparing = LimitedLog()
        database = Database(options.data, fsync=options.fsync, lock_wait_s=options.lock_wait_s)
        try:
            inventory = database.inventory()
            self._status = Status.__members__.get(database.meta("status") or "", Status.UP)
            self._threads = Threads(database, loop)
        except BaseException:
            database.close()
            raise
        self.committer = Committer(loop, self._threads, database.trouble)
        self.queues = QueueCollection(self.committer, self.config, inventory)
        self._sweeping: asyncio.TimerHandle = loop.call_later(1, self._sweep)

    # Actions of clients that an operator should know, one log line each

    def tell_foreign(self, protocol: str, peer: str) -> None:
        """A client of another protocol was disconnected."""
        if (more := self._sparing.count(protocol)) is not None:
            log.warning(
                "%s disconnected: sent %s; only the text protocol of memcache is supported%s", peer, protocol, more
            )

    def tell_dropped(self, peer: str) -> None:
        """A client was disconnected because of the bytes that were buffered for it."""
        if (more := self._sparing.count("memory")) is not None:
            limit = self.options.max_buffered_bytes
            log.warning("%s is disconnected: incomplete items and unread answers reach %d bytes%s", peer, limit, more)

    def tell_crowded(self, what: str, limit: int) -> None:
        """There are too many connections; `what` happened to one."""
        if (more := self._sparing.count("connections")) is not None:
            log.warning("connection limit (%d) reached: %s%s", limit, what, more)

    # Status

    @property
    def status(self) -> Status:
        """The configured status, or READONLY while the disk accepts no writes, whichever is stricter."""
        if self.committer.trouble is not None and self._status < Status.READONLY:
            return Status.READONLY
        return self._status

    def set_status(self, name: str) -> Ticket | None:
        """Takes effect at once; survives a restart when the ticket is settled. None for an unknown name."""
        status = Status.__members__.get(name.upper())
        if status is None:
            return None
        log.warning("status set to %s", status.name)
        self._status = status
        return self.committer.set_meta("status", status.name)

    @property
    def blocks_reads(self) -> bool:
        return self._status is Status.QUIESCENT

    @property
    def blocks_writes(self) -> str | None:
        """Why the status forbids sets, flushes and deletes, or None."""
        return self._status.name.lower() if self._status >= Status.READONLY else None

    # Configuration and end

    def reload(self) -> str | None:
        """Reads the TOML file again. Returns None, or why the old limits stay in effect."""
        try:
            self.config = configuration.load(self.options.config)
        except configuration.ConfigError as exc:
            log.warning("configuration not reloaded: %s", exc)
            return str(exc)
        self.queues.configure(self.config)
        log.info("configuration reloaded")
        return None

    def _sweep(self) -> None:
        self._sweeping = self.loop.call_later(1, self._sweep)
        self.queues.sweep()
        self.committer.sweep_chores()

    async def close(self) -> None:
        """Returns when everything is on disk and the data directory is free for another broker."""
        self._sweeping.cancel()
        await self.committer.idle()
        await self._threads.close()
