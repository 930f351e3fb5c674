"""Kestrel as the layers above see it: queues by key, one server or several that do not know of one another.

Owns the members: they come and go while it runs. What is written where, who waits for what, and how answers are
merged have modules of their own (writes, waiting, broadcast). Knows no HTTP and no leases; of tenants it knows
for whom it counts gets and items.

A server that is no member any more takes no writes and gets no new waits; what is set aside on it ends in its own
time, and then its connections close.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from pymemcache.exceptions import MemcacheError

from gateway.errors import (
    BackendRefused,
    BackendUnavailable,
    GatewayError,
    NotSupported,
    ServerNotFound,
    ServerUnavailable,
)
from gateway.fairness.shares import WHOLE
from gateway.kestrel import broadcast
from gateway.kestrel.address import Address
from gateway.kestrel.counters import Counters, Statistics, snapshot
from gateway.kestrel.discovery.members import Members
from gateway.kestrel.health import Health, ServerView
from gateway.kestrel.polls.queues import PolledQueues
from gateway.kestrel.polls.runner import LongPoll
from gateway.kestrel.puts.batches import TenantOf, Writer
from gateway.kestrel.puts.placement import Writes
from gateway.kestrel.server.server import Server
from gateway.kestrel.wire.codec import Codecs, KestrelClient
from gateway.kestrel.wire.connection import ConnectionLostError
from gateway.kestrel.wire.failures import perhaps_done
from gateway.settings import Settings
from gateway.survey import Coverage, Peeked, QueueStats, Survey

log = logging.getLogger(__name__)


def _nobody(_key: str) -> str:
    """The tenant of every key where there are no tenants."""
    return ""


class Kestrel:
    """The client side of Kestrel. Made, started, used and closed on one event loop."""

    def __init__(
        self,
        addresses: Sequence[str],
        settings: Settings,
        file: Path | None = None,
        *,
        share: float = WHOLE,
        tenant_of: TenantOf = _nobody,
    ) -> None:
        """`addresses` and `file`: see gateway.kestrel.discovery.members.
        share: the part of a server's limits that one tenant may use. tenant_of: whose a key is.

        Raises: SettingsError, MistakesError.
        """
        if not addresses and file is None:
            raise ValueError("no Kestrel server is named")
        self._members = Members(addresses, file)
        self._settings = settings
        self._share = share
        self._tenant_of = tenant_of
        self._limit_s = settings.kestrel_connect_timeout_s + settings.kestrel_command_timeout_s
        self._counters = Counters()
        self._codecs = Codecs()
        self._servers: list[Server] = []
        self._leaving: dict[Server, asyncio.Task[None]] = {}
        self._resolver: asyncio.Task[None] | None = None
        self._late = broadcast.LateAnswers()
        self._census = broadcast.QueueNames(self._late)
        self._polls = self._make_polls()

    async def start(self) -> None:
        """Begins connecting in the background; a server that cannot be reached is tried again and again."""
        self._polls = self._make_polls()
        self._writes = Writes(
            self._limit_s,
            self._settings.kestrel_max_item_bytes,
            tenant_of=self._tenant_of,
            stored=self._polls.stored,
        )
        self._take_members()
        await self._members.start(self._take_members)
        self._resolver = asyncio.create_task(self._resolve_each_time(), name="resolver of Kestrel's names")

    async def close(self) -> None:
        """Ends every wait with BackendUnavailable and closes every connection; open reads go back by that."""
        if self._resolver is not None:
            self._resolver.cancel()
        watches = asyncio.create_task(self._members.close(), name="end of the watches")
        self._polls.close(BackendUnavailable("the gateway is shutting down"))
        for task in self._leaving.values():
            task.cancel()
        await asyncio.gather(*self._leaving.values(), return_exceptions=True)
        await self._late.close()
        for server in [*self._servers, *self._leaving]:
            await server.close()
        await self._writes.close()
        self._codecs.close()
        await watches

    # Members

    async def reload(self) -> None:
        """Reads the members' file again, looks every name up again, and lets servers come and go accordingly.

        Raises: MistakesError; the members stay then.
        """
        await self._members.read()
        await self._members.resolve()
        self._take_members()

    def _take_members(self) -> None:
        """Those that are known now; while names and sets stand for nobody, the servers known last stay."""
        if addresses := self._members.addresses:
            self.set_members(addresses, self._members.read_only)

    def set_members(self, addresses: Sequence[Address], read_only: Collection[Address] = ()) -> None:
        """From now on these are the servers. read_only: those of them that should get no writes."""
        known = {server.address: server for server in self._servers}
        members = [
            known.pop(address) if address in known else self._new(address) for address in dict.fromkeys(addresses)
        ]
        for server in members:
            server.spare_writes(server.address in read_only)
        if members == self._servers:
            return
        self._servers = members
        self._polls.set_servers(members)
        for writer in self._writes.set_servers(members):
            log.info("Kestrel at %s is no member any more", writer.server.address)
            self._leaving[writer.server] = asyncio.create_task(self._part_from(writer))

    def _new(self, address: Address) -> Server:
        server = Server(
            address,
            self._settings,
            self._codecs,
            self._counters,
            on_change=self._server_changed,
            on_room=self._polls.room,
            share=self._share,
        )
        server.start()
        return server

    async def _part_from(self, writer: Writer) -> None:
        """Returns when nothing of ours is left on the writer's server."""
        await writer.close()
        await writer.server.leave()
        await writer.server.close()
        del self._leaving[writer.server]

    async def _resolve_each_time(self) -> None:
        while True:
            await self._members.resolve()
            self._take_members()
            await asyncio.sleep(self._settings.kestrel_resolve_s)

    # Jobs

    async def put(
        self, key: str, data: bytes, expiry: int = 0, *, ordering_key: str | None = None, duplicates_ok: bool = False
    ) -> None:
        """The item is stored: a server answered STORED. `expiry` as on the wire: 0 never, else seconds.

        ordering_key: items with the same one go to the same server, and to no other when that is down. duplicates_ok:
        where a server was sent the item and did not answer, another one is sent it too.
        Raises: QueueFull, JobTooLarge; BackendUnavailable if nothing was sent, BackendRefused if the server said no;
        OutcomeUnknown when it was sent and no clean answer came. Cancelled: it may have been stored.
        """
        await self._writes.put(key, data, expiry, ordering_key, duplicates_ok)

    async def put_many(
        self,
        key: str,
        items: Sequence[tuple[bytes, int]],
        *,
        ordering_key: str | None = None,
        duplicates_ok: bool = False,
    ) -> list[GatewayError | None]:
        """Stores many items, each `(data, expiry)`, in order; one outcome each, None for stored, else as `put` raises.

        Raises: BackendUnavailable when no server is known. Cancelled: any of them may have been stored.
        """
        return await self._writes.put_many(key, items, ordering_key, duplicates_ok) if items else []

    def wait(self, key: str, timeout_s: float, tenant: str = "") -> LongPoll:
        """Joins those who wait for the queue's next item. `timeout_s` 0: asks each server once and answers at once.

        tenant: for whom gets and items are counted; all waits for a key name the same one.

        Whoever waits awaits `result` or calls `cancel`: an item that is his stays set aside until then, at the
        longest until his deadline.
        """
        return self._polls.wait(key, timeout_s, tenant)

    async def peek(self, key: str) -> bytes | None:
        """The head item, left where it is, or None. Creates the queue. Raises: BackendUnavailable."""
        return (await self.look(key)).data

    async def look(self, key: str) -> Peeked:
        """As `peek`, with how many servers were asked."""
        return await broadcast.peek(self._servers, self._late, key)

    # Queues

    async def keys(self) -> frozenset[str]:
        """The key of every queue that is known of, without waiting for a server that is silent while another answers.

        Raises: BackendUnavailable when none answers.
        """
        return await self._census.keys(self._servers)

    async def queues(self) -> Mapping[str, QueueStats]:
        """Every queue by its key, added up over the servers. Raises: BackendUnavailable when none answers."""
        return (await self.survey()).queues

    async def stats_of(self, key: str) -> QueueStats | None:
        """One queue, added up over the servers; None when none of them has it. Creates none. Raises: as `queues`."""
        return (await self.survey(key)).queues.get(key)

    async def survey(self, *keys: str) -> Survey:
        """As `queues`, also server by server, with how many answered in time. keys: where only these are wanted."""
        return await broadcast.survey(self._servers, self._late, *keys)

    async def may_have_dropped(self, key: str, server: str) -> bool:
        """Whether the server named so may have deleted the queue after something of it was set aside, until just now.

        It holds nothing of it for anyone; False also where that cannot be told.
        """
        found = next((each for each in self._servers if each.address.name == server), None)
        return found is not None and await broadcast.may_have_dropped(found, key)

    async def flush(self, key: str) -> Coverage:
        """The queue is empty but for what is set aside, on the servers that answer.

        Raises: BackendUnavailable, OutcomeUnknown.
        """
        return await broadcast.change(self._servers, KestrelClient.flush, key)

    async def delete(self, key: str) -> Coverage:
        """The queue is gone, with its open reads, on the servers that answer.

        Raises: BackendUnavailable, OutcomeUnknown.
        """
        return await broadcast.change(self._servers, KestrelClient.drop, key)

    # How it stands

    @property
    def available(self) -> bool:
        """Whether some server gives out items: one that takes no writes is enough."""
        return any(server.reads for server in self._servers)

    def backends(self) -> list[ServerView]:
        """Every server and how it stands, also those that we are parting from."""
        return [server.backend() for server in [*self._servers, *self._leaving]]

    async def set_status(self, name: str, status: Health) -> ServerView:
        """The member stands so from now on: UP, READONLY or QUIESCENT.

        Raises: ServerNotFound; NotSupported where it knows no `status`; BackendRefused; ServerUnavailable, where it was
        not sent; OutcomeUnknown.
        """
        for server in self._servers:
            if server.address.name == name:
                break
        else:
            raise ServerNotFound(f"there is no server {name!r}")
        if server.answers and server.capabilities is not None and not server.capabilities.status:
            raise NotSupported(f"{name} ({server.capabilities.software}) knows no status")
        try:
            await server.set_status(status)
        except BackendRefused:
            raise
        except (BackendUnavailable, ConnectionLostError, MemcacheError) as error:
            trouble = perhaps_done(error, server.address)
            if type(trouble) is BackendUnavailable:
                trouble = ServerUnavailable(trouble.detail)
            raise trouble from error
        return server.backend()

    def statistics(self) -> Statistics:
        """What has been done so far, and what is under way."""
        counts = [server.connections() for server in [*self._servers, *self._leaving]]
        return snapshot(
            self._counters,
            connections=sum(sum(count.values()) for count in counts),
            pinned=sum(count.get("pinned", 0) for count in counts),
            waiters=self._polls.waiters,
            standing_waits=self._polls.standing,
            waited_queues=len(self._polls),
        )

    def _server_changed(self, server: Server) -> None:
        self._polls.server_changed(server)
        for other in self._servers if server.state is Health.UP and server.peer else ():
            if other is not server and other.answers and other.peer == server.peer:
                log.warning(
                    "Kestrel at %s and at %s is the same, %s: it has two members' load, and every figure counts twice",
                    other.address, server.address, server.peer,
                )  # fmt: skip

    def _make_polls(self) -> PolledQueues:
        return PolledQueues(self._servers, self._settings.kestrel_waits, self._limit_s, self._counters)
