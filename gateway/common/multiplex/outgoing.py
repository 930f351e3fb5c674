"""What one side will send: in which order, and how much the peer's credit allows. No I/O.

1. Answers, events and credit need no credit and leave first, in order. The peer's operations bound their number.
   Other messages that have credit when they come leave with them.
2. Other operations leave in order, while the credit for operations lasts.
3. Messages with items leave while the credit for items lasts. Each has a turn, a name such as its queue: those of one
   turn leave in order, and turns alternate frame by frame. A large item of one queue delays another queue by a frame.
4. An item is begun only if the peer has room for it among its incomplete ones. One item alone always has room.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from .frames import DETACHED, HEAD, PAYLOAD_BYTES, FrameKind, frame

SOME_BYTES: Final = 4 * (1 << 16)
"""About how much `take` returns at once."""


class _Message:
    """The frame of a message, and the item that goes before it. sent: bytes of the item."""

    __slots__ = ("frame", "id", "item", "sent")

    def __init__(self, frame_: bytes, id_: int, item: memoryview) -> None:
        self.frame = frame_
        self.id = id_
        self.item = item
        self.sent = 0


class Outgoing:
    """The frames that wait, and the credit.

    waiting_bytes: of the frames, without items that go in DATA frames. large_bytes: what is left of those items.
    """

    __slots__ = (
        "_incomplete", "_incomplete_bytes", "_item_credit", "_operation_credit", "_operations", "_ready",
        "_ready_bytes", "_turns", "large_bytes", "waiting_bytes",
    )  # fmt: skip

    def __init__(self) -> None:
        self._ready: list[bytes] = []  # answers, and what had credit when it came
        self._ready_bytes = 0
        self._operations: deque[bytes] = deque()
        self._turns: OrderedDict[object, deque[bytes | _Message]] = OrderedDict()
        self._item_credit = 0
        self._operation_credit = 0
        self._incomplete_bytes = 0
        self._incomplete = 0
        self.waiting_bytes = 0
        self.large_bytes = 0

    def __repr__(self) -> str:
        return f"<Outgoing {self.waiting_bytes} bytes, credit {self._item_credit} and {self._operation_credit}>"

    def allow(self, item_bytes: int, operation_bytes: int, incomplete_bytes: int | None = None) -> None:
        """The peer gives more credit. incomplete_bytes: of its greeting."""
        self._item_credit += item_bytes
        self._operation_credit += operation_bytes
        if incomplete_bytes is not None:
            self._incomplete_bytes = incomplete_bytes

    @property
    def blocked(self) -> bool:
        """Whether items wait for credit."""
        return self._item_credit <= 0 and bool(self._turns)

    # What will be sent

    def answer(self, data: bytes) -> None:
        """A frame that needs no credit: an answer, an event, or credit."""
        size = len(data)
        self._ready.append(data)
        self._ready_bytes += size
        self.waiting_bytes += size

    def operate(self, data: bytes) -> None:
        """A frame with an operation without an item."""
        size = len(data)
        self.waiting_bytes += size
        if self._operations or self._operation_credit <= 0:
            self._operations.append(data)
        else:
            self._operation_credit -= size
            self._ready_bytes += size
            self._ready.append(data)

    def carry(self, turn: object, data: bytes) -> None:
        """A frame of this turn."""
        size = len(data)
        self.waiting_bytes += size
        if self._turns or self._item_credit <= 0 or self._ready_bytes >= SOME_BYTES:
            self._add(turn, data)
        else:
            self._item_credit -= size
            self._ready_bytes += size
            self._ready.append(data)

    def carry_item(  # noqa: PLR0917 (the parts of a frame)
        self, turn: object, kind: FrameKind, id_: int, payload: bytes, item: bytes, flags: int = 0
    ) -> None:
        """A message of this turn whose item, which is not empty, goes before it in DATA frames."""
        self._add(turn, _Message(frame(kind, id_, payload, flags | DETACHED), id_, memoryview(item)))
        self.waiting_bytes += HEAD.size + len(payload)
        self.large_bytes += len(item)

    def _add(self, turn: object, message: bytes | _Message) -> None:
        waiting = self._turns.get(turn)
        if waiting is None:
            self._turns[turn] = deque((message,))
        else:
            waiting.append(message)

    # What is sent

    def take(self) -> bytes:
        """The frames to send now, about SOME_BYTES of them; empty if none may be sent."""
        frames, self._ready = self._ready, []
        size, self._ready_bytes = self._ready_bytes, 0
        if self._operations:
            size += self._take_operations(frames, size)
        self.waiting_bytes -= size
        if self._turns:
            self._take_turns(frames, size)
        return frames[0] if len(frames) == 1 else b"".join(frames)

    def _take_operations(self, frames: list[bytes], size: int) -> int:
        """Adds operations that waited for credit; returns their size. size: of what will be sent before them."""
        operations = self._operations
        taken = 0
        while operations and self._operation_credit > 0 and size + taken < SOME_BYTES:
            data = operations.popleft()
            self._operation_credit -= len(data)
            taken += len(data)
            frames.append(data)
        return taken

    def _take_turns(self, frames: list[bytes], size: int) -> None:
        skipped = 0  # turns in a row whose next item the peer has no room for
        while self._turns and self._item_credit > 0 and size < SOME_BYTES and skipped < len(self._turns):
            data = self._next_frame()
            skipped = 0 if data else skipped + 1
            self._item_credit -= len(data)
            size += len(data)
            frames.append(data)

    def _next_frame(self) -> bytes:
        """A frame of the first turn, which then goes behind the others; empty if it must wait."""
        turn, waiting = next(iter(self._turns.items()))
        message = waiting[0]
        if not isinstance(message, bytes) and message.sent < len(message.item):
            found = self._piece(message)
        else:
            waiting.popleft()
            if isinstance(message, bytes):
                found = message
            else:
                found = message.frame
                self._incomplete -= message.sent
            self.waiting_bytes -= len(found)
        if waiting:
            self._turns.move_to_end(turn)
        else:
            del self._turns[turn]
        return found

    def _piece(self, message: _Message) -> bytes:
        """The next part of an item, or nothing if it may not begin yet (rule 4)."""
        if not message.sent:
            size = len(message.item)
            if self._incomplete and self._incomplete + size > self._incomplete_bytes:
                return b""
            self._incomplete += size
        piece = message.item[message.sent : message.sent + PAYLOAD_BYTES]
        message.sent += len(piece)
        self.large_bytes -= len(piece)
        return b"".join((HEAD.pack(len(piece), FrameKind.DATA, 0, message.id), piece))
