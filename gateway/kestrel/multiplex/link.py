"""The link to the embedded broker: puts, gets and peeks on one multiplexed connection, the rest by memcache.

1. It connects by both protocols. Without a common version, or without the socket, it is a memcache link, and says so
   once.
2. The end of the multiplexed connection is the loss of the server, which is then tried again at once.
3. An operation that has no answer in time fails alone; whether the server still answers is asked by memcache.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

from gateway.common.multiplex.frames import PAYLOAD_BYTES, Frame, FrameKind
from gateway.common.multiplex.messages import MOST_KEY_BYTES, VERSIONS, Code, put_bytes, unpack_outcome
from gateway.errors import BackendRefused, BackendUnavailable, GatewayError, JobTooLarge, OutcomeUnknown, QueueFull
from gateway.kestrel.address import Address
from gateway.kestrel.link import Answered, Put, Report, Sending
from gateway.kestrel.multiplex.channel import BrokerChannel
from gateway.kestrel.multiplex.gets import MultiplexedGets
from gateway.kestrel.server.memcache_link import MemcacheLink
from gateway.kestrel.wire.connection import ConnectionLostError, State
from gateway.kestrel.wire.failures import not_asked
from gateway.settings import Settings

log = logging.getLogger(__name__)

LEAST_BYTES_PER_S: Final = 4 << 20
"""A large put has this much more time than a small one."""


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

    # Lifetime

    async def try_connect(self) -> None:
        """Connects by both protocols. Raises BackendUnavailable if memcache fails."""
        why = "" if self.channel is not None else await self._open_channel()
        await super().try_connect()
        if not why:
            self._warned = False
        elif not self._warned:
            self._warned = True
            log.warning("Kestrel at %s is used by memcache alone: %s", self.address, why)

    async def _open_channel(self) -> str:
        """Makes the multiplexed connection. Returns why there is none, or nothing. Cancelled: it is closed."""
        channel = BrokerChannel(self._loop, self._answered_something, self._channel_lost, self._versions)
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

    def _answered_something(self) -> None:
        self.connections.heard(self._loop.time())

    def _channel_lost(self, channel: BrokerChannel) -> None:
        if channel is not self.channel:
            return
        self.channel = None
        if self.health.answers:
            self.health.lost(BackendUnavailable(f"{self.address.marked} has closed its connection"))

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
            pinned = State.PINNED.value
            counts[pinned] = counts.get(pinned, 0) + len(self.channel.reads)
            counts["multiplexed"] = 1
        return counts

    # Commands

    def queue(self, key: str, tenant: str, sending: Sending, answered: Answered) -> MultiplexedGets:
        """See ServerLink."""
        return MultiplexedGets(self, key, tenant, self._counters, sending, answered)

    async def peek(self, key: str) -> bytes | None:
        """See ServerLink."""
        if self.channel is None or not self.health.reads:
            return await super().peek(key)
        try:
            answer = await self.channel.answer_to(FrameKind.PEEK, key.encode(), self.timeout_s)
        except ConnectionLostError as error:
            raise not_asked(error, self.address) from error
        if answer.kind == FrameKind.PEEKED:
            return answer.payload if answer.item is None else answer.item
        (code,), why = unpack_outcome(answer.payload, 1)
        if code is Code.EMPTY:
            return None
        raise BackendRefused(f"{self.address.marked} refuses: {why or code.name}")

    async def store(self, puts: Sequence[Put], report: Report) -> None:
        """See ServerLink. Errors: QueueFull, JobTooLarge, BackendUnavailable, BackendRefused, OutcomeUnknown."""
        channel = self.channel
        if channel is None or not self.health.answers:
            await super().store(puts, report)
            return
        done = self._loop.create_future()
        waiting = dict.fromkeys(range(len(puts)))

        def outcome(index: int, error: GatewayError | None) -> None:
            if index in waiting:
                del waiting[index]
                report(index, error)
                if not waiting and not done.done():
                    done.set_result(None)

        largest = channel.frames.theirs.largest_bytes if channel.frames.theirs is not None else 0
        for index, (key, data, _) in enumerate(puts):
            if len(data) > largest:
                outcome(index, _put_error(self, Code.TOO_LARGE, ""))
            elif not 0 < len(key.encode()) <= MOST_KEY_BYTES:
                outcome(index, _put_error(self, Code.ILLEGAL_NAME, ""))
        for places in _messages(puts, list(waiting)):
            answered = partial(self._stored, places, outcome)
            name, data, expiry = puts[places[0]]
            if put_bytes(name.encode(), [len(puts[place][1]) for place in places]) <= PAYLOAD_BYTES:
                channel.put(name.encode(), [(puts[place][2], puts[place][1]) for place in places], answered)
            else:
                channel.put_large(name.encode(), expiry, data, answered)
        try:
            if waiting:
                size = sum(len(data) for _, data, _ in puts)
                await asyncio.wait((done,), timeout=self.timeout_s + size / LEAST_BYTES_PER_S)
                if waiting:
                    self.look()
        finally:
            for index in list(waiting):
                outcome(index, self._unknown())

    def _stored(self, places: Sequence[int], outcome: Report, answer: Frame | None) -> None:
        """The answer to the put of these."""
        if answer is None:
            for place in places:
                outcome(place, self._unknown())
            return
        codes, why = unpack_outcome(answer.payload, len(places))
        for place, code in zip(places, codes, strict=True):
            outcome(place, None if code is Code.OK else _put_error(self, code, why))
        if Code.REFUSED in codes:
            self.look()

    def _unknown(self) -> OutcomeUnknown:
        return OutcomeUnknown(f"the job was sent to {self.address.marked}, but no valid answer came")


def _messages(puts: Sequence[Put], places: Sequence[int]) -> Iterator[list[int]]:
    """The places of the puts that go together: of one key, in order, as many as fit into a frame."""
    by_key: dict[str, list[int]] = {}
    for place in places:
        by_key.setdefault(puts[place][0], []).append(place)
    for key, of_key in by_key.items():
        group: list[int] = []
        size = put_bytes(key.encode(), ())
        for place in of_key:
            more = put_bytes(b"", (len(puts[place][1]),)) - put_bytes(b"", ())
            if group and size + more > PAYLOAD_BYTES:
                yield group
                group, size = [], put_bytes(key.encode(), ())
            group.append(place)
            size += more
        yield group


def _put_error(link: MultiplexedLink, code: Code, why: str) -> GatewayError:
    """The error of a put that was not stored."""
    if code is Code.FULL:
        return QueueFull("Kestrel did not store the job: the queue is full, or the job is too large for it")
    if code is Code.TOO_LARGE:
        return JobTooLarge("the job is above the largest item of its queue (max_item_bytes)")
    if code is Code.REFUSED:
        return BackendRefused(f"{link.address.marked} refuses: {why}")
    return BackendUnavailable(f"{link.address.marked} refuses the name of the queue")
