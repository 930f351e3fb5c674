"""The running broker without its sockets: its state, and what a client can do with items.

`put` and `read` need no connection of a particular protocol: the caller passes its client's open reads
(`reads.ClientReads`, which also confirms and aborts). To wait, it passes a `waiters.WaitingRead`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from pathlib import Path

from gateway.broker import config as configuration
from gateway.broker.client_log import ClientLog
from gateway.broker.counters import BrokerCounters
from gateway.broker.memory import BufferLimit
from gateway.broker.queues.collection import QueueCollection
from gateway.broker.queues.queue import PersistentQueue
from gateway.broker.queues.reads import ClientReads, Delivery, ReadMode
from gateway.broker.storage.batch import Ticket
from gateway.broker.storage.committer import Committer
from gateway.broker.storage.database import Database
from gateway.broker.storage.threads import Threads

log = logging.getLogger(__name__)

VERSION = b"2.4.8"
"""Only digits and dots, because old clients accept nothing else. Source: kestrel-wire.md."""
_ABSOLUTE_FROM = 1_000_000
"""From this value on an expiry is seconds since the epoch. Source: kestrel-wire.md, Set."""


class UnavailableError(Exception):
    """The status or the disk allows no such operation at the moment. The message says why, for the client."""


class TooManyReadsError(Exception):
    """The client's connection has as many open reads of the queue as it may have."""


class Status(IntEnum):
    """The status, by strictness. READONLY accepts no writes, QUIESCENT only settlements."""

    UP = 1
    WRITEAVOID = 2
    READONLY = 3
    QUIESCENT = 4


class PutOutcome(Enum):
    """ACCEPTED: stored when the ticket is settled. FULL and TOO_LARGE: neither the queue nor a child gets the item;
    TOO_LARGE: it would not even if they were empty. CONGESTED: nothing was done; try again when the ticket is settled.
    """

    ACCEPTED = 1
    FULL = 2
    TOO_LARGE = 3
    CONGESTED = 4

    __hash__ = object.__hash__


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
        self.client_log = ClientLog()
        self.started_s = time.monotonic()
        self.on_shutdown: Callable[[], None] = lambda: None
        self.config = configuration.load(options.config, options.max_item_bytes)
        self.memory = BufferLimit(options.max_buffered_bytes)
        database = Database(options.data, fsync=options.fsync, lock_wait_s=options.lock_wait_s)
        try:
            inventory = database.inventory()
            self._status = Status[database.settings().get("status", Status.UP.name)]
            self._threads = Threads(database, loop)
        except BaseException:
            database.close()
            raise
        self.committer = Committer(loop, self._threads, database.trouble)
        self.queues = QueueCollection(self.committer, self.config, inventory)
        self._sweeping: asyncio.TimerHandle = loop.call_later(1, self._sweep)

    # Items

    def put(self, name: bytes, data: bytes, expiry: int) -> tuple[PutOutcome, Ticket | None, int]:
        """`put_many` for one item."""
        return self.put_many(name, ((expiry, data),))

    def put_many(self, name: bytes, entries: Sequence[tuple[int, bytes]]) -> tuple[PutOutcome, Ticket | None, int]:
        """Adds items to the queue and to its fanout children, all or none of them.

        entries: expiry and data. Expiry: seconds from now if below 1,000,000, otherwise seconds since the epoch; 0
        means never. Returns the outcome, the ticket to wait for before the answer, and a number: the ticket names the
        queue's own items by this number and those that follow, in order. It is 0 if the queue has none. If the ticket
        refuses a number, the disk could not store just that item. Several items are FULL also if some of them have
        room. Raises IllegalNameError, UnavailableError, and OverflowError if no id is left.
        """
        counters, committer, count = self.counters, self.committer, len(entries)
        counters.cmd_set += count
        self.require_writable()
        if committer.trouble is not None and (why := committer.refusal) is not None:
            raise UnavailableError(why)
        congested = committer.congested
        if committer.large.full and self.queues.is_late(name, max(len(data) for _, data in entries)):
            congested = committer.large.first
        if congested is not None:
            counters.cmd_set -= count
            return PutOutcome.CONGESTED, congested, 0
        accepted, ticket, item_id = self.queues.put_many(
            name, [(data, _expires_ms(expiry) if expiry else 0) for expiry, data in entries]
        )
        if accepted:
            counters.total_items += count
            return PutOutcome.ACCEPTED, ticket, item_id
        if count > 1:
            counters.cmd_set -= count
        elif self.queues.never_takes(name, len(entries[0][1])):
            return PutOutcome.TOO_LARGE, ticket, item_id
        return PutOutcome.FULL, ticket, item_id

    def read(self, name: bytes, mode: ReadMode, reads: ClientReads) -> tuple[PersistentQueue, Delivery | None]:
        """Reads the first item of the queue; in mode OPEN the open read is added to `reads`.

        The item is None if the queue is empty or other reads wait for its items. Then the caller may join
        `queue.waiters`. It must join them if `queue.backlog.starved`, because the disk is being read. The caller counts
        hits and misses. Raises IllegalNameError, UnavailableError, TooManyReadsError.
        """
        self.require_readable()
        if mode is ReadMode.OPEN and not reads.may_open(name):
            raise TooManyReadsError
        if mode is ReadMode.PEEK:
            self.counters.cmd_peek += 1
        else:
            self.counters.cmd_get += 1
        queue = self.queues.get(name)
        return queue, queue.read(mode, reads)

    def require_readable(self) -> None:
        """Raises UnavailableError if the status allows no reads."""
        if self._status is Status.QUIESCENT:
            raise UnavailableError("quiescent")

    def require_writable(self) -> None:
        """Raises UnavailableError if the status allows no puts, flushes and deletes."""
        if self._status >= Status.READONLY:
            raise UnavailableError(self._status.name.lower())

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

    # Configuration and end

    def reload(self) -> str | None:
        """Reads the TOML file again. Returns None, or why the old limits stay in effect."""
        try:
            self.config = configuration.load(self.options.config, self.options.max_item_bytes)
        except configuration.ConfigError as exc:
            log.warning("the configuration is not reloaded, and the previous one stays in use: %s", exc)
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


def _expires_ms(expiry: int) -> int:
    """The wall time in milliseconds at which an item with this expiry, which is not 0, expires."""
    base_s = time.time() if expiry < _ABSOLUTE_FROM else 0
    return max(int((base_s + expiry) * 1000), 1)
