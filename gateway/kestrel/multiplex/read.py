"""An item that the embedded broker has set aside: one of many open reads on a channel.

Owns the outcome of the item: confirmed, given back, taken back by the broker, or lost with the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from gateway.common.multiplex.frames import LAST, Frame, FrameKind, frame
from gateway.common.multiplex.messages import Code, Opening, pack_ids, unpack_expiry, unpack_outcome
from gateway.errors import BackendRefused, GatewayError, LeaseLost, OutcomeUnknown, QueueDeleted
from gateway.kestrel.counters import Counters
from gateway.kestrel.multiplex.channel import BrokerChannel
from gateway.kestrel.server.read_of_server import HELD, LOST, SETTLING, ReadOfServer
from gateway.kestrel.server.server import Server
from gateway.kestrel.wire.connection import ConnectionLostError

MOST_BYTES: Final = (1 << 32) - 1
"""Of one open: the field has four bytes."""
_CONNECTION_LOST = "the connection that held the job was lost; the job is back on its queue"
_TAKEN_BACK = "Kestrel no longer held the job, so it is back on its queue"


class MultiplexedRead(ReadOfServer):
    """Implements gateway.kestrel.link.TakenItem. deleted: the item was deleted with its queue."""

    __slots__ = ("_channel", "_id", "deleted")
    keeps_order = True

    def __init__(  # noqa: PLR0917 (one caller)
        self, server: Server, channel: BrokerChannel, counters: Counters, key: str, tenant: str, item: Frame
    ) -> None:
        data = item.payload if item.item is None else item.item
        super().__init__(server, counters, key, tenant, data, counters.items_taken)
        self.deleted = False
        self._channel = channel
        self._id = item.id
        channel.reads[item.id] = self
        server.room.hold(tenant)

    def id_on(self, channel: BrokerChannel) -> int:
        """Its id on this channel; 0 if it is not set aside there."""
        return self._id if self._channel is channel and self._state is HELD else 0

    async def verify(self) -> None:
        """Returns if the item is still set aside: the broker has said so just now. Raises LeaseLost."""
        try:
            held = await self.check()
        except QueueDeleted as error:
            raise LeaseLost(error.detail) from error
        if not held:
            raise LeaseLost(_TAKEN_BACK)

    async def check(self) -> bool:
        """Whether the item is still set aside. Raises: QueueDeleted, LeaseLost."""
        if self._state is LOST:
            raise self._ended()
        try:
            answer = await self._channel.answer_to(FrameKind.CHECK, pack_ids((self._id,)))
        except ConnectionLostError as error:
            raise LeaseLost(_CONNECTION_LOST) from error
        if self.deleted:
            raise self._ended()
        return unpack_outcome(answer.payload, 1)[0][0] is Code.OK

    async def expires_s(self) -> float | None:
        """See OpenRead. The broker says it. None also if the item is lost."""
        if self._state is LOST:
            return None
        try:
            answer = await self._channel.answer_to(FrameKind.CHECK, pack_ids((self._id,)))
        except ConnectionLostError:
            return None
        expires_ms = unpack_expiry(unpack_outcome(answer.payload, 1)[1])
        return None if expires_ms is None else expires_ms / 1000

    async def confirm(self) -> None:
        """Removes the item for good; the broker has confirmed it.

        Raises: LeaseLost if the item is back on its queue, QueueDeleted if it is gone with it; BackendRefused if it is
        back because the commit failed; OutcomeUnknown if no answer came. Cancelled: the outcome is unknown.
        """
        future: asyncio.Future[GatewayError | None] = self._channel.loop.create_future()
        if not self.start_confirm(partial(_resolve, future)):
            raise self._ended()
        error = await future
        if error is not None:
            raise error

    def start_confirm(self, then: Callable[[GatewayError | None], None]) -> bool:
        """Starts removing the item; calls `then` with None or with what `confirm` raises.

        An answer that comes after the error OutcomeUnknown calls it again. Returns False if the item is lost, and
        nothing was sent.
        """
        if self._state is LOST or self._channel.closed:
            return False
        self._begin()
        self._channel.confirm(self._id, partial(self._confirmed, then))
        return True

    def _confirmed(self, then: Callable[[GatewayError | None], None], code: Code | None, why: str) -> None:
        self.over()
        if code is Code.OK:
            then(None)
        elif code is None:
            then(OutcomeUnknown(f"the ack was sent to {self._server.address.marked}, but no answer came"))
        elif code is Code.REFUSED:
            then(BackendRefused(f"{self._server.address.marked} refuses: {why}"))
        else:
            then(self._ended())

    async def first_of_batch(self) -> MultiplexedRead:
        """Itself."""
        return self

    async def more(self, count: int, limit_bytes: int) -> Sequence[MultiplexedRead]:
        """See gateway.leases.lease.OpenRead. These are settled in any order."""
        room = min(count, self._server.room.items.room(self.tenant))
        if room <= 0 or self._state is not HELD or self._channel.closed:
            return ()
        self._counters.commands += 1
        return await ReadyItems(self._server, self._channel, self._counters, self.key, self.tenant).take(
            room, limit_bytes
        )

    async def abort(self) -> None:
        """Puts the item back to the head of its queue. Never raises. Does nothing if it is settled or lost."""
        if self._state is not HELD:
            return
        self._begin()
        try:
            await self._channel.answer_to(FrameKind.ABORT, pack_ids((self._id,)))
        except ConnectionLostError:
            pass
        finally:
            self.over()

    async def abort_all(self, reads: Sequence[MultiplexedRead], /) -> None:
        """See OpenRead.abort_all. No consumer gets one of them before all are back. Never raises."""
        ids: dict[BrokerChannel, list[int]] = {}
        leaving = [read for read in reads if read.leave(ids)]
        try:
            for channel, of_channel in ids.items():
                with contextlib.suppress(ConnectionLostError):
                    await channel.answer_to(FrameKind.ABORT, pack_ids(of_channel))
        finally:
            for read in leaving:
                read.over()

    def leave(self, ids: dict[BrokerChannel, list[int]]) -> bool:
        """Adds its id to those of its channel that are to go back. False if it is not set aside."""
        if self._state is not HELD:
            return False
        self._begin()
        ids.setdefault(self._channel, []).append(self._id)
        return True

    def start_abort(self, then: Callable[[bool], None]) -> None:
        """Starts putting the item back; calls `then` with whether the broker answered."""
        if self._state is not HELD or self._channel.closed:
            then(False)
            return
        self._begin()
        self._channel.ask(FrameKind.ABORT, pack_ids((self._id,)), partial(self._aborted, then))

    def give_back(self) -> None:
        """Returns at once; the broker puts the item back. Does nothing if it is settled or lost."""
        if self._state is HELD:
            self._begin()
            if not self._channel.closed:
                self._channel.ask(FrameKind.ABORT, pack_ids((self._id,)), _ignore)
            self.over()

    def _aborted(self, then: Callable[[bool], None], answer: Frame | None) -> None:
        self.over()
        then(answer is not None)

    def taken_back(self, *, deleted: bool) -> None:
        """See OpenedRead."""
        self.deleted = deleted
        self.lose()

    def _ended(self) -> LeaseLost | QueueDeleted:
        """Why the item is no longer set aside."""
        if self.deleted:
            return QueueDeleted()
        return LeaseLost(_CONNECTION_LOST if self._channel.closed else _TAKEN_BACK)

    def _begin(self) -> None:
        """From here on the end of the read is an outcome of the operation, and not reported to `on_lost`."""
        self._move(SETTLING)

    def over(self) -> None:
        """The operation that `_begin` announced has ended, and with it the read."""
        self._settled()
        self._channel.dismiss(self._id)


class ReadyItems:
    """One open of several items, which does not wait. A connection that ends, or a broker that does not answer in
    time, ends it with the items that have come."""

    __slots__ = ("_args", "_channel", "_id", "_over", "_reads")

    def __init__(self, server: Server, channel: BrokerChannel, counters: Counters, key: str, tenant: str) -> None:
        self._channel = channel
        self._args = server, channel, counters, key, tenant
        self._id = 0
        self._reads: list[MultiplexedRead] = []
        self._over: asyncio.Future[None] = channel.loop.create_future()

    async def take(self, count: int, limit_bytes: int) -> list[MultiplexedRead]:
        """The items, in the order of the queue. Cancelled: they go back in that order."""
        *_, key, tenant = self._args
        limit_bytes = min(limit_bytes, MOST_BYTES)
        opening = Opening(key.encode(), items=count, limit_bytes=limit_bytes, tenant=tenant)
        self._id = self._channel.pending.expect(self._answered, 0.0, ids=count)
        self._channel.frames.operate(frame(FrameKind.OPEN, self._id, opening.pack()))
        try:
            await asyncio.shield(self._over)
        except asyncio.CancelledError:
            self._over.add_done_callback(lambda _: self._give_back())
            raise
        return self._reads

    def _answered(self, answer: Frame | None) -> None:
        if answer is not None and answer.kind == FrameKind.ITEM:
            self._args[2].items_taken += 1
            self._reads.append(MultiplexedRead(*self._args, answer))
            if not answer.flags & LAST:
                self._id = answer.id + 1
                self._channel.pending.expect_next(self._id, self._answered)
                return
        elif answer is None and not self._channel.closed:
            self._channel.withdraw(self._id)
        if not self._over.done():
            self._over.set_result(None)

    def _give_back(self) -> None:
        for read in reversed(self._reads):
            read.give_back()


def _resolve(future: asyncio.Future[GatewayError | None], error: GatewayError | None) -> None:
    if not future.done():
        future.set_result(error)


def _ignore(_answer: Frame | None) -> None:
    """The item is back, or back with the connection."""
