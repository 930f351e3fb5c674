"""The link to the embedded broker: puts, gets and peeks on one multiplexed connection, the rest by memcache.

1. It connects by both protocols. Without a common version, or without the socket, it is a memcache link, and says so
   once.
2. When the multiplexed connection ends, the server counts as lost, and the link connects again at once.
3. Puts that wait to be sent have at most `--max-buffer-bytes`. Beyond that a put is refused, and nothing was sent. One
   put alone always has room.
4. If an operation gets no answer in time, only that operation fails; memcache is used to ask whether the server still
   answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from gateway.common.counted import counted
from gateway.common.multiplex.frames import PAYLOAD_BYTES, Frame, FrameKind
from gateway.common.multiplex.messages import (
    ENTRY_BYTES,
    MOST_KEY_BYTES,
    VERSIONS,
    Code,
    PutEntry,
    put_bytes,
    unpack_outcome,
)
from gateway.common.shares import WHOLE
from gateway.errors import BackendRefused, BackendUnavailable, GatewayError, JobTooLarge, OutcomeUnknown, QueueFull
from gateway.kestrel.address import Address
from gateway.kestrel.link import Answered, Put, Report, Sending, Taken
from gateway.kestrel.multiplex.channel import BrokerChannel
from gateway.kestrel.multiplex.gets import DirectTake, MultiplexedGets
from gateway.kestrel.multiplex.read import MultiplexedRead
from gateway.kestrel.server.memcache_link import MemcacheLink
from gateway.kestrel.wire.codec import KestrelClient
from gateway.kestrel.wire.connection import ConnectionLostError, ConnectionState
from gateway.kestrel.wire.failures import not_asked
from gateway.settings import Settings

log = logging.getLogger(__name__)

LEAST_BYTES_PER_S: Final = 1 << 20
"""The slowest accepted rate: a large put has a second more for each of so many bytes."""


class MultiplexedLink(MemcacheLink):
    """Implements gateway.kestrel.link.ServerLink. socket_path: the broker's socket for workers.

    channel: None while there is no multiplexed connection.
    """

    def __init__(
        self,
        address: Address,
        settings: Settings,
        *args: Any,
        socket_path: str,
        versions: tuple[int, int] = VERSIONS,
        **given: Any,
    ) -> None:
        super().__init__(address, settings, *args, **given)
        self._connect_timeout_s = settings.kestrel_connect_timeout_s
        self.channel: BrokerChannel | None = None
        self._socket_path = socket_path
        self._versions = versions
        self._warned = False
        self._open_bytes = settings.max_lease_bytes
        self._most_unsent_bytes = settings.max_buffer_bytes
        self._share = given.get("share", WHOLE)

    # Lifetime

    async def try_connect(self) -> None:
        """Connects by both protocols. Raises BackendUnavailable if memcache fails."""
        why = "" if self.channel is not None else await self._open_channel()
        await super().try_connect()
        if not why:
            self._warned = False
        elif not self._warned:
            self._warned = True
            log.warning("only memcache is used for Kestrel at %s: %s", self.address, why)

    async def _open_channel(self) -> str:
        """Makes the multiplexed connection. Returns why there is none, or nothing. Cancelled: it is closed."""
        channel = BrokerChannel(
            self._loop,
            self.timeout_s,
            self.connections.heard,
            self._channel_lost,
            self._versions,
            open_bytes=self._open_bytes,
            share=self._share,
        )
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await self._loop.create_unix_connection(lambda: channel.frames, self._socket_path)
                usable = await channel.ready
        except (OSError, TimeoutError) as error:
            channel.shut()
            return str(error) or "the broker does not answer"
        except BaseException:
            channel.shut()
            raise
        if usable:
            self.channel = channel
            return ""
        theirs = channel.frames.theirs
        channel.shut()
        if theirs is None:
            return "it has closed the connection"
        ours = channel.frames.greeting
        return (
            f"it speaks versions {theirs.lowest} to {theirs.highest} of the multiplexed protocol, "
            f"this worker {ours.lowest} to {ours.highest}"
        )

    def _channel_lost(self, channel: BrokerChannel) -> None:
        if channel is not self.channel:
            return
        self.channel = None
        if self.health.answers:
            self.health.lost(BackendUnavailable(f"{self.address.marked} closed the connection"))

    async def storage_stats(self) -> dict[str, str]:
        """The counters of the broker's storage. Raises BackendUnavailable."""
        counters: dict[str, str] = await self.commands.ask(KestrelClient.storage_stats)
        return counters

    async def leave(self) -> None:
        """See ServerLink."""
        await super().leave()
        if self.channel is not None:
            await self.channel.left()

    async def close(self) -> None:
        """See ServerLink."""
        await super().close()
        if self.channel is not None:
            self.channel.shut()

    def count_connections(self) -> dict[str, int]:
        """The number of connections by state; each open read counts as a pinned one."""
        counts = super().count_connections()
        if self.channel is not None:
            pinned = ConnectionState.PINNED.value
            counts[pinned] = counts.get(pinned, 0) + len(self.channel.reads)
            counts["multiplexed"] = 1
        return counts

    # Commands

    def queue(self, key: str, tenant: str, sending: Sending, answered: Answered) -> MultiplexedGets:
        """See ServerLink."""
        return MultiplexedGets(self, key, tenant, self._counters, sending, answered)

    def start_take(self, key: str, tenant: str, then: Taken, after: object | None, /) -> Callable[[], None] | None:  # type: ignore[override]
        """See ServerLink."""
        channel = self.channel
        room = self.room
        if channel is None or not self.delivers(key) or room.item_room(tenant) <= room.coming.of(tenant):
            return None
        read_id = 0
        if after is not None:
            read_id = after.id_on(channel) if isinstance(after, MultiplexedRead) else 0
            if not read_id:
                return None
        self._counters.commands += 1
        return DirectTake(self, channel, self._counters, key, tenant, then).start(read_id)

    async def peek(self, key: str) -> bytes | None:
        """See ServerLink."""
        if self.channel is None or not self.health.reads:
            return await super().peek(key)
        try:
            answer = await self.channel.answer_to(FrameKind.PEEK, key.encode())
        except ConnectionLostError as error:
            raise not_asked(error, self.address) from error
        if answer.kind == FrameKind.PEEKED:
            return answer.payload if answer.item is None else answer.item
        (code,), why = unpack_outcome(answer.payload, 1)
        if code is Code.EMPTY:
            return None
        raise BackendRefused(f"{self.address.marked} refuses: {why or code.name}")

    async def create(self, key: str) -> None:
        """See ServerLink."""
        if self.channel is None or not self.health.reads:
            await super().create(key)
            return
        try:
            answer = await self.channel.answer_to(FrameKind.CREATE, key.encode())
        except ConnectionLostError as error:
            raise not_asked(error, self.address) from error
        (code,), why = unpack_outcome(answer.payload, 1)
        if code is not Code.OK:
            raise BackendRefused(f"{self.address.marked} refuses: {why or code.name}")

    def start_store(self, puts: Sequence[Put], report: Report) -> None:
        """See ServerLink. Errors: QueueFull, JobTooLarge, BackendUnavailable, BackendRefused, OutcomeUnknown."""
        channel = self.channel
        if channel is None or not self.health.answers:
            super().start_store(puts, report)
        elif len({key for key, _, _ in puts}) == 1:
            self._store_together(channel, puts, range(len(puts)), report)
        else:
            by_key: dict[str, list[int]] = {}
            for place, (key, _, _) in enumerate(puts):
                by_key.setdefault(key, []).append(place)
            for places in by_key.values():
                self._store_together(channel, puts, places, report)

    async def store(self, puts: Sequence[Put], report: Report) -> None:
        """See ServerLink."""
        left = len(puts)
        stored = self._loop.create_future()

        def reported(places: Sequence[int], outcomes: Sequence[GatewayError | None]) -> None:
            nonlocal left
            left -= len(places)
            report(places, outcomes)
            if not (left or stored.done()):
                stored.set_result(None)

        self.start_store(puts, reported)
        if left:
            await stored

    def _store_together(
        self, channel: BrokerChannel, puts: Sequence[Put], places: Sequence[int], report: Report
    ) -> None:
        """Stores puts of one key, in frames of as many as fit (rule 3)."""
        key = puts[places[0]][0].encode()
        unsent = channel.frames.unsent_bytes
        if unsent and unsent + sum(len(puts[place][1]) for place in places) > self._most_unsent_bytes:
            report(places, [self._behind(unsent) for _ in places])
            return
        if not 0 < len(key) <= MOST_KEY_BYTES:
            report(places, [_put_error(self, Code.ILLEGAL_NAME, "") for _ in places])
            return
        most = PAYLOAD_BYTES - put_bytes(key, ())
        frame_places: list[int] = []
        entries: list[PutEntry] = []
        size = 0
        for place in places:
            _, data, expiry = puts[place]
            taken = ENTRY_BYTES + len(data)
            if entries and size + taken > most:
                self._put(channel, key, entries, frame_places, report)
                frame_places, entries, size = [], [], 0
            if taken > most:
                self._put_large(channel, key, (expiry, data), place, report)
                continue
            frame_places.append(place)
            entries.append((expiry, data))
            size += taken
        if entries:
            self._put(channel, key, entries, frame_places, report)

    def _put(
        self, channel: BrokerChannel, key: bytes, entries: Sequence[PutEntry], places: Sequence[int], report: Report
    ) -> None:
        channel.put(key, entries, partial(self._stored, places, report), self.timeout_s)

    def _put_large(self, channel: BrokerChannel, key: bytes, entry: PutEntry, place: int, report: Report) -> None:
        size = len(entry[1])
        theirs = channel.frames.theirs
        if theirs is not None and size > theirs.largest_bytes:
            report((place,), (_put_error(self, Code.TOO_LARGE, ""),))
            return
        channel.put_large(
            key, entry, partial(self._stored, (place,), report), self.timeout_s + size / LEAST_BYTES_PER_S
        )

    def _stored(self, places: Sequence[int], report: Report, answer: Frame | None) -> None:
        """The answer to the put of these."""
        if answer is None:
            self.look()
            report(places, [self._unknown() for _ in places])
        elif not answer.payload:
            report(places, [None] * len(places))
        else:
            codes, why = unpack_outcome(answer.payload, len(places))
            report(places, [None if code is Code.OK else _put_error(self, code, why) for code in codes])
            if Code.REFUSED in codes:
                self.look()

    def _behind(self, unsent: int) -> BackendUnavailable:
        return BackendUnavailable(
            f"{self.address.marked} is behind: {counted(unsent, 'byte waits', 'bytes wait')} to be sent, and "
            "more would exceed the limit of "
            f"{counted(self._most_unsent_bytes, 'byte')} (--max-buffer-bytes); try again later"
        )

    def _unknown(self) -> OutcomeUnknown:
        return OutcomeUnknown(f"the job was sent to {self.address.marked}, but no valid answer came")


def _put_error(link: MultiplexedLink, code: Code, why: str) -> GatewayError:
    """The error of a put that was not stored."""
    if code is Code.FULL:
        return QueueFull("Kestrel did not store the job: the queue is full, or the job is too large for it")
    if code is Code.TOO_LARGE:
        return JobTooLarge("the job is larger than the queue allows (max_item_bytes)")
    if code is Code.REFUSED:
        return BackendRefused(f"{link.address.marked} refuses: {why}")
    return BackendUnavailable(f"{link.address.marked} refuses the name of the queue")


async def storage_stats(servers: Iterable[object]) -> Mapping[str, str] | None:
    """The counters of the embedded broker's storage; None if it is not one of the servers, or does not answer."""
    for server in servers:
        if isinstance(server, MultiplexedLink):
            with contextlib.suppress(BackendUnavailable):
                return await server.storage_stats()
    return None
