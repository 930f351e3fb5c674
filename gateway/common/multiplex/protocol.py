"""One side of a multiplexed connection: reads frames in turns, writes frames together, keeps credit.

1. What one turn of the loop produces leaves in one write. It never stops reading because its own writes are paused.
2. It handles at most FRAME_BYTES or TURN_S of what it reads; then other connections have their turn.
3. Credit comes back when a frame has been handled, and not while writes are paused. So the peer's operations, their
   answers and the items under way are bounded.
4. Only the end of the socket, a broken frame, or a peer without a common version ends the connection.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any, Final

from gateway.common.shares import WHOLE

from .frames import (
    CARRIERS,
    HEAD_BYTES,
    PAYLOAD_BYTES,
    BrokenFrameError,
    Frame,
    FrameDecoder,
    FrameKind,
    frame,
)
from .handler import FrameHandler
from .messages import SHARE_UNITS, Greeting, pack_credit, unpack_credit, unpack_greeting
from .outgoing import SOME_BYTES, Outgoing

TURN_S: Final = 0.005
CREDIT_BYTES: Final = 1 << 20
"""Of items, and of operations: what the peer may send before the first is handled."""
INCOMPLETE_BYTES: Final = 128 << 20
WAITING_BYTES: Final = 1 << 20
"""While more than this waits to be sent, apart from large items, the connection is `blocked`."""
_CREDIT_STEP: Final = CREDIT_BYTES // 4
"""Less than this is not given back."""
_FIRST_MESSAGE: Final = int(FrameKind.PUT)
"""The kinds below it are for the connection itself."""


class FrameConnection(asyncio.BufferedProtocol):
    """One connection. versions: the range to offer. largest_bytes: the largest item to accept. open_bytes, share: see
    Greeting. theirs: the peer's greeting."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        handler: FrameHandler,
        versions: tuple[int, int],
        largest_bytes: int,
        *,
        open_bytes: int = 0,
        share: float = WHOLE,
    ) -> None:
        self._handler = handler
        # connection
        self.loop = loop
        self.transport: Any = None
        self.greeting = Greeting(
            *versions, CREDIT_BYTES, CREDIT_BYTES, largest_bytes, max(INCOMPLETE_BYTES, largest_bytes),
            open_bytes, round(share * SHARE_UNITS),
        )  # fmt: skip
        self.theirs: Greeting | None = None
        self.closed = False
        self._decoder = FrameDecoder(largest_bytes, self.greeting.incomplete_bytes)
        self._out = Outgoing()
        self._draining = False
        # turn of the loop
        self._choked = False  # the peer does not read
        self._was_blocked = False
        self._flushing = False  # what is to be sent will be written in this turn
        self._working = False  # frames are handled now; what they cause is written after them
        self._offered = 0  # bytes, of the last free part of the buffer
        # handled, and not given back as credit
        self._handled_items = 0
        self._handled_operations = 0

    def __repr__(self) -> str:
        return f"<FrameConnection {self._out!r}{' closed' if self.closed else ''}>"

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.transport.write(frame(FrameKind.GREETING, 0, self.greeting.pack()))
        self._handler.opened()

    def get_buffer(self, _sizehint: int) -> memoryview:
        free = self._decoder.free
        self._offered = len(free)
        return free

    def buffer_updated(self, nbytes: int) -> None:
        self._handler.received(nbytes)
        self._decoder.received(nbytes)
        if not self._work() or nbytes == self._offered:
            # Others first: the transport would read on at once, and the buffer may have no room.
            self.transport.pause_reading()
            self.loop.call_soon(self._next_turn)

    def eof_received(self) -> None:
        """The transport closes: a peer that has ended receives nothing."""

    def pause_writing(self) -> None:
        self._choked = True

    def resume_writing(self) -> None:
        self._choked = False
        self.give_credit()
        self._unblock()
        self._flush()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.closed = True
        self._handler.ended()

    # Reading

    def _next_turn(self) -> None:
        if self.closed or self._draining:
            return
        if self._work():
            self.transport.resume_reading()
        else:
            self.loop.call_soon(self._next_turn)

    def _work(self) -> bool:
        """Handles what is complete. Returns False if the time is over before that."""
        until_s = monotonic() + TURN_S
        next_frame, handle = self._decoder.next, self._handler.handle
        self._working = finished = True
        try:
            while not (self.closed or self._draining):
                message = next_frame()
                if message is None:
                    break
                kind = message.kind
                if kind < _FIRST_MESSAGE or self.theirs is None:
                    self._control(message)
                else:
                    if kind in CARRIERS:
                        self._handled_items += HEAD_BYTES + len(message.payload)
                    else:
                        self._handled_operations += HEAD_BYTES + len(message.payload)
                    handle(message)
                if monotonic() > until_s:
                    finished = False
                    break
        except BrokenFrameError as exc:
            self.closed = True
            self.transport.abort()
            self._handler.broken(exc)
        finally:
            self._working = False
        self.give_credit()
        if self._flushing:
            self._flush()
        return finished

    def _control(self, message: Frame) -> None:
        """A greeting or credit."""
        kind = message.kind
        if self.theirs is None:
            if kind != FrameKind.GREETING:
                raise BrokenFrameError("the first frame is not a greeting")
            self.theirs = unpack_greeting(message.payload)
            common = self.greeting.common_version(self.theirs)
            self._out.allow(self.theirs.item_bytes, self.theirs.operation_bytes, self.theirs.incomplete_bytes)
            self._handler.greeted(common)
            if common is None:
                self.close()
            self.schedule()
        elif kind == FrameKind.CREDIT:
            items, operations = unpack_credit(message.payload)
            self._out.allow(items, operations)
            self._unblock()
            self.schedule()
        else:
            raise BrokenFrameError("a second greeting")

    def give_credit(self) -> None:
        """Gives credit back if it is much (rule 3)."""
        items = self._handled_items + self._decoder.consumed
        operations = self._handled_operations
        if (items < _CREDIT_STEP and operations < _CREDIT_STEP) or self._choked or self.closed:
            return
        may_items, may_operations = self._handler.credits_back()
        items = items if may_items else 0
        operations = operations if may_operations else 0
        if max(items, operations) < _CREDIT_STEP:
            return
        self.answer(frame(FrameKind.CREDIT, 0, pack_credit(items, operations)))
        self._handled_operations -= operations
        if items:
            self._handled_items = self._decoder.consumed = 0

    # Writing

    @property
    def blocked(self) -> bool:
        """Whether the peer takes no items now. `unblocked` is called when that ends."""
        blocked = self._choked or self._out.blocked or self._out.waiting_bytes > WAITING_BYTES
        self._was_blocked |= blocked
        return blocked

    @property
    def unsent_bytes(self) -> int:
        """What waits to be sent, with large items."""
        return self._out.waiting_bytes + self._out.large_bytes

    def answer(self, data: bytes) -> None:
        """A frame that needs no credit."""
        self._out.answer(data)
        if not self._flushing:
            self.schedule()

    def operate(self, data: bytes) -> None:
        """A frame with an operation without an item."""
        self._out.operate(data)
        if not self._flushing:
            self.schedule()

    def carry(self, turn: object, kind: FrameKind, id_: int, payload: bytes = b"", flags: int = 0) -> None:
        """A message with an item, or an event about one, in the order of the turn.

        A payload that does not fit into a frame is an item, and goes in DATA frames.
        """
        if len(payload) > PAYLOAD_BYTES:
            self._out.carry_item(turn, kind, id_, b"", payload, flags)
        else:
            self._out.carry(turn, frame(kind, id_, payload, flags))
        if not self._flushing:
            self.schedule()

    def carry_item(self, turn: object, kind: FrameKind, id_: int, payload: bytes, item: bytes) -> None:
        """A message with this payload, and an item that goes in DATA frames."""
        self._out.carry_item(turn, kind, id_, payload, item)
        self.schedule()

    def schedule(self) -> None:
        """There is something to send: it is written at the end of this turn of the loop."""
        if not self._flushing:
            self._flushing = True
            if not self._working:
                self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._choked or self.closed:
            return
        self._handler.gather()
        data = self._out.take()
        if data:
            self.transport.write(data)
            self._handler.wrote(len(data))
            if self._was_blocked:
                self._unblock()
            if len(data) >= SOME_BYTES:
                self.schedule()

    def _unblock(self) -> None:
        if self._was_blocked and not self.blocked:
            self._was_blocked = False
            self._handler.unblocked()
            self.give_credit()

    # The end

    def drain(self) -> None:
        """Handles nothing more; answers are still written."""
        self._draining = True
        self.transport.pause_reading()

    def close(self) -> None:
        """Writes what may be written, and closes."""
        if not self.closed:
            self._flush()
            self.closed = True
            self.transport.close()

    def abort(self) -> None:
        """Closes at once; what was not written is not sent."""
        self.closed = True
        if self.transport is not None:
            self.transport.abort()
