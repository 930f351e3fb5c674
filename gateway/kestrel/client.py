"""Kestrel for the layers above: queues by key, on one server or on several that do not know of each other.

Puts the parts together: the links to the servers, which may change at run time (links), which server gets a put
(puts), how polls wait (polls), and how answers are merged (broadcast). Knows no HTTP and no leases. It knows
tenants only to share out gets, items and batches of puts among them.

A server that is no longer a member gets no writes and no new polls; its open reads end in their own time, and then its
connections close.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

from gateway.common.shares import WHOLE
from gateway.coverage import Coverage, Covered
from gateway.errors import BackendUnavailable, GatewayError, NotSupported, ServerNotFound
from gateway.fairness.loop_time import LoopTime
from gateway.kestrel import broadcast
from gateway.kestrel.address import Address, parse_address
from gateway.kestrel.counters import Counters, Statistics, snapshot
from gateway.kestrel.discovery.members import Members, parse_sources
from gateway.kestrel.fanout import Fanout
from gateway.kestrel.health import Health, ServerView
from gateway.kestrel.link import ServerLink
from gateway.kestrel.links import ServerLinks
from gateway.kestrel.member import Member
from gateway.kestrel.multiplex.link import MultiplexedLink, storage_stats
from gateway.kestrel.polls.direct import DirectPoll
from gateway.kestrel.polls.preferred import PreferredPoll
from gateway.kestrel.polls.queues import PolledQueues
from gateway.kestrel.polls.runner import LongPoll
from gateway.kestrel.puts.batches import TenantOf
from gateway.kestrel.puts.placement import Placement
from gateway.kestrel.server.memcache_link import MemcacheLink
from gateway.kestrel.wire.codec import Codecs
from gateway.queue_stats import MergedStats
from gateway.settings import Settings

log = logging.getLogger(__name__)

FIRST_TRIES_S: Final = 1.0
"""How long the start waits for servers that neither answer nor refuse a connection."""


def _nobody(_key: str) -> str:
    """The tenant of every key in a deployment without tenants."""
    return ""


def _every(_key: str) -> bool:
    return True


class Kestrel:
    """The client side of Kestrel. Created, started, used and closed on one event loop."""

    def __init__(
        self,
        addresses: Sequence[str],
        settings: Settings,
        file: Path | None = None,
        *,
        share: float = WHOLE,
        tenant_of: TenantOf = _nobody,
        loop_time: LoopTime | None = None,
        owns: Callable[[str], bool] = _every,
        worker_sockets: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`addresses` and `file`: see gateway.kestrel.discovery.members.
        share: the part of a server's limits that one tenant may use. tenant_of: the tenant of a key. loop_time: what
        tenants use of the event loop. owns: whether a key belongs to this deployment; see gateway.kestrel.fanout.
        worker_sockets: the socket for the multiplexed connection, by the address of its server, which is one address
        although its path may have commas.

        Raises: SettingsError, MistakesError.
        """
        if not addresses and file is None:
            raise ValueError("no Kestrel server is named")
        self._worker_sockets = {parse_address(address): path for address, path in worker_sockets.items()}
        listed = parse_sources([each for each in addresses if each not in worker_sockets])
        self._members = Members([*self._worker_sockets, *listed], file, settings.kestrel_resolve_s)
        self._settings = settings
        self._share = share
        self._tenant_of = tenant_of
        self._loop_time = loop_time
        self._limit_s = settings.kestrel_connect_timeout_s + settings.kestrel_command_timeout_s
        self._counters = Counters()
        self._codecs = Codecs()
        self._servers = ServerLinks(self._connect)
        self._late = broadcast.LateAnswers()
        self._names = broadcast.QueueNames(self._late)
        self.storage_stats = partial(storage_stats, self._servers)
        self.fanout = Fanout(lambda: self._servers.members, owns)

    async def start(self) -> None:
        """Starts connecting. A server that cannot be reached is tried again and again in the background.

        Returns when each server was tried once, and those that answer are prepared for puts, at most FIRST_TRIES_S
        later: then a gateway whose servers answer is ready.
        """
        self._polls = PolledQueues(
            self._servers.members, self._settings.kestrel_waits, self._limit_s, self._counters, self._loop_time
        )
        self._placement = Placement(
            self._limit_s,
            self._settings.kestrel_max_item_bytes,
            keys_move=self._settings.ordering_keys == "move",
            tenant_of=self._tenant_of,
            stored=self._polls.stored,
            prepare=self.fanout.prepare,
        )
        self.fanout.placement = self._placement
        self.fanout.renewed = self._polls.server_changed
        self._take_members()
        await self._members.start(self._take_members)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_TRIES_S):
                for server in list(self._servers.members):
                    await server.tried()
                await self._placement.prepared()

    async def close(self) -> None:
        """Ends every poll with BackendUnavailable and closes every connection; open reads go back by that."""
        watches = asyncio.create_task(self._members.close(), name="end of the watches")
        self._polls.close(BackendUnavailable("the gateway is shutting down"))
        await self._servers.stop_leaving()
        await self._late.close()
        await self.fanout.close()
        await self._servers.close()
        await self._placement.close()
        self._codecs.close()
        await watches

    # Members

    async def reload(self) -> None:
        """Reads the file of members again, looks up every name again, and adds and removes servers accordingly.

        Raises MistakesError; then the members do not change.
        """
        await self._members.read()
        await self._members.resolve()
        self._take_members()

    def _take_members(self) -> None:
        """Uses the members that are known now; while no name or set leads to a server, the last known servers stay."""
        if addresses := self._members.addresses:
            self.set_members(addresses, self._members.read_only)

    def set_members(self, addresses: Sequence[Address], read_only: Collection[Address] = ()) -> None:
        """Uses these servers from now on. read_only: those of them that should get no writes."""
        if self._servers.set_members(addresses, read_only):
            self._polls.set_servers(self._servers.members)
            self.fanout.forget(self._servers.members)
            for writer in self._placement.set_servers(self._servers.members):
                self._servers.retire(writer)

    def _connect(self, address: Address) -> ServerLink:
        socket_path = self._worker_sockets.get(address, "")
        server: ServerLink = (partial(MultiplexedLink, socket_path=socket_path) if socket_path else MemcacheLink)(
            address,
            self._settings,
            self._codecs,
            self._counters,
            on_change=lambda _: self._server_changed(server),
            on_room=self._polls.room,
            share=self._share,
        )

        def withholds(key: str) -> bool:
            deleted = self.fanout.deleted
            return deleted is not None and key in deleted.outdated(address.name)

        server.withholds = withholds
        server.start()
        return server

    # Jobs

    async def put(
        self, key: str, data: bytes, expiry: int = 0, *, ordering_key: str | None = None, duplicates_ok: bool = False
    ) -> None:
        """Stores the item: a server has answered STORED. `expiry` as on the wire: 0 never, otherwise seconds.

        ordering_key: items with the same key go to the same server, and to no other one if that server is down.
        duplicates_ok: if a server got the item and did not answer, another server gets it, too.
        Raises: QueueFull, JobTooLarge; NotSupported if the item is empty and the server loses or changes such items;
        BackendUnavailable if nothing was sent, BackendRefused if the server refused; OutcomeUnknown if it was sent and
        no clean answer came. Cancelled: it may be stored.
        """
        await self._placement.put(key, data, expiry, ordering_key, duplicates_ok)

    async def put_many(
        self,
        key: str,
        items: Sequence[tuple[bytes, int]],
        *,
        ordering_key: str | None = None,
        duplicates_ok: bool = False,
    ) -> list[GatewayError | None]:
        """Stores many items, each `(data, expiry)`, in order. Returns one outcome each: None if stored, else an error.

        Raises: BackendUnavailable if no server is known. Cancelled: any of them may be stored.
        """
        return await self._placement.put_many(key, items, ordering_key, duplicates_ok) if items else []

    def wait(self, key: str, timeout_s: float, tenant: str = "") -> LongPoll | DirectPoll:
        """Starts a poll for the queue's next item. `timeout_s` 0: asks each server once and does not wait.

        tenant: for which gets and items are counted; all polls of a key have the same one.

        The caller awaits `result` or calls `cancel`. An item for this poll stays set aside until then, at most until
        the poll's deadline.
        """
        return self._polls.wait(key, timeout_s, tenant)

    def wait_in_order(self, keys: Sequence[str], timeout_s: float, tenant: str = "") -> PreferredPoll:
        """Like `wait`, for several queues: the item comes from the first of them that has one (see PreferredPoll)."""
        return self._polls.wait_in_order(keys, timeout_s, tenant)

    def take_after(self, read: object, key: str, timeout_s: float, tenant: str = "") -> DirectPoll | None:
        """Like `wait`, for an item that is taken only after the item `read` is confirmed.

        The caller starts that confirm next, and cancels the poll if it fails. None: that is not possible now; then
        confirm first.
        """
        return self._polls.take(key, timeout_s, tenant, read)

    async def peek(self, key: str) -> Covered[bytes | None]:
        """The head item, which stays in place. Creates the queue. Raises BackendUnavailable."""
        return await broadcast.peek(self._servers.members, self._late, key)

    # Queues

    async def keys(self) -> frozenset[str]:
        """The keys of all known queues. Does not wait for a silent server while another one answers.

        Raises BackendUnavailable if no server answers.
        """
        return await self._names.keys(self._servers.members)

    async def queue_stats(self, *keys: str) -> MergedStats:
        """Every queue, or only those with these keys. Raises BackendUnavailable if no server answers."""
        return await broadcast.queue_stats(self._servers.members, self._late, *keys)

    async def missing(self, key: str) -> Coverage | None:
        """None if some server has the queue; otherwise how many have said that they do not. Raises as `queue_stats`."""
        return await broadcast.missing(self._servers.members, self._late, key)

    async def may_have_dropped(self, key: str, server: str) -> bool:
        """Whether the named server may have deleted the queue since an item of it was set aside.

        Then the server has no open read of the queue. False also if that cannot be determined.
        """
        found = self._servers.member(server)
        return found is not None and await found.may_have_dropped(key)

    async def flush(self, key: str) -> Coverage:
        """Empties the queue, except open reads, on the servers that answer.

        Raises: BackendUnavailable, OutcomeUnknown.
        """
        return await broadcast.flush(self._servers.members, key)

    async def delete(self, key: str) -> Coverage:
        """Deletes the queue, with its open reads, on the servers that answer.

        Raises: BackendUnavailable, OutcomeUnknown.
        """
        return await broadcast.change(self._servers.members, lambda server: server.delete(key))

    def each_member(self) -> list[Member]:
        """Every member by itself, for items that belong on a certain server."""
        return [Member(link) for link in self._servers.members]

    # States of the servers

    @property
    def available(self) -> bool:
        """Whether some server delivers items; it need not accept writes."""
        return any(server.health.reads for server in self._servers.members)

    def backends(self) -> list[ServerView]:
        """Every server and its state, including servers that are being removed."""
        return [server.backend() for server in self._servers]

    async def set_status(self, name: str, status: Health) -> ServerView:
        """Sets the status of the member: UP, READONLY or QUIESCENT.

        Raises: ServerNotFound; NotSupported if the server has no `status`; BackendRefused; ServerUnavailable if nothing
        was sent; OutcomeUnknown.
        """
        if (server := self._servers.member(name)) is None:
            raise ServerNotFound(f"there is no server {name!r}")
        capabilities = server.health.capabilities if server.health.answers else None
        if capabilities is not None and not capabilities.status:
            raise NotSupported(f"{name} ({capabilities.software}) has no status command")
        await server.set_status(status)
        return server.backend()

    def statistics(self) -> Statistics:
        """Counts since the start, and current values."""
        counts = [server.count_connections() for server in self._servers]
        return snapshot(
            self._counters,
            connections=sum(sum(count.values()) for count in counts),
            pinned=sum(count.get("pinned", 0) for count in counts),
            waiters=self._polls.waiters,
            open_waits=self._polls.open_waits,
            waited_queues=len(self._polls),
        )

    def _server_changed(self, server: ServerLink) -> None:
        self._polls.server_changed(server)
        self._placement.server_changed(server)
        self._servers.warn_of_duplicates(server)
