"""The worker's end of a multiplexed connection: matches answers with operations by their ids.

1. Each operation has one callback. It is called with the answer, or with None if the connection ends first or no
   answer comes in time.
2. A late answer is one that comes after None. That of a confirm calls the callback again. Others are ignored: the
   operation may have taken effect. An item for an open that nobody waits for goes back at once.
3. At the end of the connection every open read is lost, and every operation without an answer has an unknown outcome.
4. The confirms of one turn of the loop go in one frame, or in several of MOST_IDS each, behind every open that names
   one of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol, TypeAlias

from gateway.common.multiplex.frames import BrokenFrameError, Frame, FrameKind, frame
from gateway.common.multiplex.messages import (
    MOST_IDS,
    VERSIONS,
    Code,
    PutEntry,
    pack_detached_put,
    pack_ids,
    pack_opening,
    pack_put,
    unpack_outcome,
)
from gateway.common.multiplex.protocol import FrameConnection
from gateway.common.shares import WHOLE
from gateway.kestrel.multiplex.pending import OnFrame, PendingOperations
from gateway.kestrel.wire.connection import ConnectionLostError

log = logging.getLogger(__name__)

LARGEST_BYTES = 1 << 32
"""The largest item that is accepted: no real limit, because the worker has asked for each item and the broker has a
limit."""
_TAKEN_BACK: Final = int(FrameKind.TAKEN_BACK)
_ITEM: Final = int(FrameKind.ITEM)
Confirmed: TypeAlias = Callable[[Code | None, str], None]
"""Called with the outcome of a confirm and why it failed; with None if no answer came."""


class OpenedRead(Protocol):
    """An open read on a channel."""

    def taken_back(self, *, deleted: bool) -> None:
        """The broker has ended it."""

    def lose(self) -> None:
        """It ended with the connection."""


class BrokerChannel:
    """One connection, and the protocol of its socket, `frames`.

    Implements gateway.common.multiplex.handler.FrameHandler. timeout_s: of an operation, if no other time is given.
    open_bytes, share: the most bytes of its open reads, and the part that one tenant may have; 0: no limit.
    on_heard: called when bytes come. on_lost: called at its end. ready: done after the greetings, with whether both
    sides have a common version.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timeout_s: float,
        on_heard: Callable[[float], None],
        on_lost: Callable[[BrokerChannel], None],
        versions: tuple[int, int] = VERSIONS,
        *,
        open_bytes: int = 0,
        share: float = WHOLE,
    ) -> None:
        self.loop = loop
        self.frames = FrameConnection(loop, self, versions, LARGEST_BYTES, open_bytes=open_bytes, share=share)
        self.ready: asyncio.Future[bool] = loop.create_future()
        self.reads: dict[int, OpenedRead] = {}
        self._timeout_s = timeout_s
        self._on_heard = on_heard
        self._on_lost = on_lost
        self.pending = PendingOperations(loop, timeout_s, self._look_idle)
        self._answers = self.pending.operations
        self._confirms: dict[int, Confirmed] = {}  # by open read, of this turn of the loop
        self._over = False
        self._idle: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<BrokerChannel {len(self.reads)} reads, {len(self._answers)} operations, {self.frames!r}>"

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._over or self.frames.closed

    # Operations

    def ask(self, kind: FrameKind, payload: bytes, then: OnFrame, timeout_s: float = 0.0) -> int:
        """Sends an operation without items; returns its id."""
        id_ = self.pending.expect(then, timeout_s)
        self.frames.operate(frame(kind, id_, payload))
        return id_

    def put(self, key: bytes, entries: Sequence[PutEntry], then: OnFrame, timeout_s: float) -> None:
        """Stores items that fit into a frame together."""
        self.frames.carry(key, FrameKind.PUT, self.pending.expect(then, timeout_s), pack_put(key, entries))

    def put_large(self, key: bytes, entry: PutEntry, then: OnFrame, timeout_s: float) -> None:
        """Stores an item that does not fit into a frame."""
        expiry, item = entry
        id_ = self.pending.expect(then, timeout_s)
        self.frames.carry_item(key, FrameKind.PUT, id_, pack_detached_put(key, expiry, len(item)), item)

    def open(self, key: bytes, wait_s: float, then: OnFrame, *, tenant: str = "", after: int = 0) -> int:
        """Takes an item; returns the id of the open, which is that of the read. tenant, after: see Opening."""
        wait_ms = max(1, int(wait_s * 1000)) if wait_s else 0
        payload = pack_opening(key, wait_ms, after=after, tenant=tenant)
        return self.ask(FrameKind.OPEN, payload, then, wait_s + self._timeout_s)

    def cancel(self, id_: int) -> None:
        """Ends an open whose caller is gone: an item that is under way goes back (rule 2)."""
        if self._answers.pop(id_, None) is not None and not self.closed:
            self.frames.operate(frame(FrameKind.CANCEL, id_))
            self._look_idle()

    def withdraw(self, id_: int) -> None:
        """Ends an open that was not answered in time: an item that comes later goes back."""
        self.frames.operate(frame(FrameKind.CANCEL, id_))

    def confirm(self, id_: int, then: Confirmed) -> None:
        """Confirms an open read (rule 4)."""
        self._confirms[id_] = then
        self.frames.schedule()

    async def answer_to(self, kind: FrameKind, payload: bytes) -> Frame:
        """The answer to an operation.

        Raises: ConnectionLostError if none came. Cancelled: the operation may take effect.
        """
        if self.closed:
            error = ConnectionLostError("the connection is closed")
            error.unsent = True
            raise error
        future: asyncio.Future[Frame | None] = self.loop.create_future()
        id_ = self.ask(kind, payload, partial(_resolve, future))
        try:
            found = await future
        finally:
            self._answers.pop(id_, None)
            self._look_idle()
        if found is None:
            raise ConnectionLostError("no answer came", timed_out=not self.closed)
        return found

    def dismiss(self, id_: int) -> None:
        """The read is settled."""
        self.reads.pop(id_, None)
        if self._idle is not None:
            self._look_idle()

    # See FrameHandler

    def opened(self) -> None:
        """It is not ready before the greetings."""

    def greeted(self, common: int | None) -> None:
        if not self.ready.done():
            self.ready.set_result(common is not None)

    def handle(self, message: Frame) -> None:
        id_ = message.id
        found = self._answers.pop(id_, None)
        if found is not None:
            found[0](message)
        elif message.kind == _TAKEN_BACK:
            read = self.reads.pop(id_, None)
            if read is not None:
                read.taken_back(deleted=bool(message.payload))
        elif message.kind == _ITEM:
            self.ask(FrameKind.ABORT, pack_ids((id_,)), _ignore)
        elif (late := self.pending.late.pop(id_, None)) is not None:
            late(message)
        if self._idle is not None:
            self._look_idle()

    def gather(self) -> None:
        confirms = self._confirms
        while confirms:
            some = confirms
            if len(confirms) > MOST_IDS:
                some = dict(list(confirms.items())[:MOST_IDS])
                confirms = dict(list(confirms.items())[MOST_IDS:])
            else:
                confirms = {}
            self._confirms = confirms
            id_ = self.pending.expect(partial(_tell, some), 0.0, also_late=True)
            self.frames.operate(frame(FrameKind.CONFIRM, id_, pack_ids(tuple(some))))

    def unblocked(self) -> None:
        """It does not ask whether it is blocked: leases and waits bound what it sends."""

    def credits_back(self) -> tuple[bool, bool]:
        return True, True

    def received(self, _count: int) -> None:
        self._on_heard(self.loop.time())

    def broken(self, error: BrokenFrameError) -> None:
        log.error("the connection to the embedded broker is closed: %s", error)

    def wrote(self, _count: int) -> None:
        """Not counted."""

    def ended(self) -> None:
        self.shut()

    # The end

    async def left(self) -> None:
        """Returns when there is no open read and no operation."""
        if (self.reads or self._answers or self._confirms) and not self._over:
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
        answers = self.pending.close()
        confirms, self._confirms = self._confirms, {}
        self._on_lost(self)
        for read in reads.values():
            read.lose()
        for then in answers:
            then(None)
        _tell(confirms, None)
        self._look_idle()

    def _look_idle(self) -> None:
        idle = self._idle
        if idle is not None and not (self.reads or self._answers or self._confirms or idle.done()):
            idle.set_result(None)


def _resolve(future: asyncio.Future[Frame | None], answer: Frame | None) -> None:
    if not future.done():
        future.set_result(answer)


def _ignore(_answer: Frame | None) -> None:
    """The item is back, or back with the connection."""


def _tell(confirms: dict[int, Confirmed], answer: Frame | None) -> None:
    """The answer to a frame with these confirms."""
    if answer is None:
        for then in confirms.values():
            then(None, "")
        return
    codes, why = unpack_outcome(answer.payload, len(confirms))
    for then, code in zip(confirms.values(), codes, strict=True):
        then(code, why)
