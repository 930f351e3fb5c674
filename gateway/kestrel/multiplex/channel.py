"""The worker's end of a multiplexed connection: matches answers with operations by their ids.

1. Each operation has one callback, called once: with the answer, or with None if the connection ended before.
2. An item for an open that nobody waits for any more goes back at once. Other late answers are ignored: the operation
   may have taken effect.
3. At the end of the connection every open read is lost, and every operation without an answer has an unknown outcome.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from gateway.common.multiplex.frames import BrokenFrameError, Frame, FrameKind, frame
from gateway.common.multiplex.messages import VERSIONS, Opening, pack_detached_put, pack_ids, pack_put
from gateway.common.multiplex.protocol import FrameConnection
from gateway.kestrel.wire.connection import ConnectionLostError

log = logging.getLogger(__name__)

LARGEST_BYTES = 1 << 32
"""Of an item: it asks for each, and the broker has a limit."""
Then = Callable[[Frame | None], None]


class OpenedRead(Protocol):
    """An open read on a channel."""

    def taken_back(self, *, deleted: bool) -> None:
        """The broker has ended it."""

    def connection_lost(self) -> None:
        """It ended with the connection."""


class BrokerChannel:
    """One connection, and the protocol of its socket, `frames`.

    Implements gateway.common.multiplex.protocol.FrameHandler. on_heard: called when bytes come. on_lost: called at its
    end. ready: done after the greetings, with whether both sides have a common version.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_heard: Callable[[], None],
        on_lost: Callable[[BrokerChannel], None],
        versions: tuple[int, int] = VERSIONS,
    ) -> None:
        self.loop = loop
        self.frames = FrameConnection(loop, self, versions, LARGEST_BYTES)
        self.ready: asyncio.Future[bool] = loop.create_future()
        self.reads: dict[int, OpenedRead] = {}
        self._on_heard = on_heard
        self._on_lost = on_lost
        self._answers: dict[int, Then] = {}
        self._last_id = 0
        self._over = False
        self._idle: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<BrokerChannel {len(self.reads)} reads, {len(self._answers)} operations, {self.frames!r}>"

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._over or self.frames.closed

    # Operations

    def ask(self, kind: FrameKind, payload: bytes, then: Then) -> int:
        """Sends an operation without items; returns its id."""
        id_ = self._next_id(then)
        self.frames.operate(frame(kind, id_, payload))
        return id_

    def put(self, key: bytes, entries: Sequence[tuple[int, bytes]], then: Then) -> None:
        """Stores items that fit into a frame together."""
        self.frames.carry(key, FrameKind.PUT, self._next_id(then), pack_put(key, entries))

    def put_large(self, key: bytes, expiry: int, item: bytes, then: Then) -> None:
        """Stores an item that does not fit into a frame."""
        self.frames.carry_item(key, FrameKind.PUT, self._next_id(then), pack_detached_put(key, expiry, len(item)), item)

    def open(self, key: bytes, wait_ms: int, then: Then) -> int:
        """Takes an item; returns the id of the open, which is that of the read."""
        return self.ask(FrameKind.OPEN, Opening(key, wait_ms).pack(), then)

    def cancel(self, id_: int) -> None:
        """Ends an open whose caller is gone: an item that is under way goes back (rule 2)."""
        if self._answers.pop(id_, None) is not None and not self.closed:
            self.frames.operate(frame(FrameKind.CANCEL, id_))
            self._look_idle()

    def forget(self, id_: int) -> None:
        """The answer is not awaited any more."""
        self._answers.pop(id_, None)
        self._look_idle()

    def settle(self, kind: FrameKind, id_: int, then: Then) -> int:
        """Confirms, aborts or checks one open read."""
        return self.ask(kind, pack_ids((id_,)), then)

    async def answer_to(self, kind: FrameKind, payload: bytes, timeout_s: float) -> Frame:
        """The answer to an operation.

        Raises: ConnectionLostError if none came. Cancelled: the operation may take effect.
        """
        if self.closed:
            error = ConnectionLostError("the connection is closed")
            error.unsent = True
            raise error
        future: asyncio.Future[Frame | None] = self.loop.create_future()
        id_ = self.ask(kind, payload, partial(_resolve, future))
        timer = self.loop.call_later(timeout_s, _resolve, future, None)
        try:
            found = await future
        finally:
            timer.cancel()
            self.forget(id_)
        if found is None:
            raise ConnectionLostError("no answer came", timed_out=not self.closed)
        return found

    def dismiss(self, id_: int) -> None:
        """The read is settled."""
        self.reads.pop(id_, None)
        self._look_idle()

    def _next_id(self, then: Then) -> int:
        id_ = self._last_id = self._last_id + 1
        self._answers[id_] = then
        return id_

    # See FrameHandler

    def opened(self) -> None:
        """It is not ready before the greetings."""

    def greeted(self, common: int | None) -> None:
        if not self.ready.done():
            self.ready.set_result(common is not None)

    def handle(self, message: Frame) -> None:
        if message.kind == FrameKind.TAKEN_BACK:
            read = self.reads.pop(message.id, None)
            if read is not None:
                read.taken_back(deleted=bool(message.payload))
                self._look_idle()
            return
        then = self._answers.pop(message.id, None)
        if then is not None:
            then(message)
            self._look_idle()
        elif message.kind == FrameKind.ITEM:
            self.ask(FrameKind.ABORT, pack_ids((message.id,)), _ignore)

    def unblocked(self) -> None:
        """It does not ask whether it is blocked: leases and waits bound what it sends."""

    def credits_back(self) -> tuple[bool, bool]:
        return True, True

    def received(self, _count: int) -> None:
        self._on_heard()

    def broken(self, error: BrokenFrameError) -> None:
        log.error("the connection to the embedded broker is closed: %s", error)

    def wrote(self, _count: int) -> None:
        """Not counted."""

    def ended(self) -> None:
        self.shut()

    # The end

    async def left(self) -> None:
        """Returns when there is no open read and no operation."""
        if (self.reads or self._answers) and not self._over:
            self._idle = self.loop.create_future()
            await self._idle

    def shut(self) -> None:
        """Ends everything at once (rule 3)."""
        if self._over:
            return
        self._over = True
        self.frames.abort()
        if not self.ready.done():
            self.ready.set_result(False)
        reads, self.reads = self.reads, {}
        answers, self._answers = self._answers, {}
        self._on_lost(self)
        for read in reads.values():
            read.connection_lost()
        for then in answers.values():
            then(None)
        self._look_idle()

    def _look_idle(self) -> None:
        if self._idle is not None and not (self.reads or self._answers or self._idle.done()):
            self._idle.set_result(None)


def _resolve(future: asyncio.Future[Frame | None], answer: Frame | None) -> None:
    if not future.done():
        future.set_result(answer)


def _ignore(_answer: Frame | None) -> None:
    """The item is back, or back with the connection."""
