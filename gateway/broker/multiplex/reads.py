"""The open reads of one multiplexed connection, and the opens that wait.

1. Each open gets one answer, even if it is cancelled: items, or the reason why it gets none. It waits for no other
   operation, except for the confirm of the read that it names.
2. While the worker takes no items, its opens are deferred, and the queues serve others. They also serve others while
   the next item exceeds the bytes that the worker or the tenant may have open: an open that waits is passed over, and
   another one ends.
3. At the end of the connection all waiting opens are gone first, then all open reads are back in the order in which
   they were taken, and only then are other clients served, some in each turn of the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol

from gateway.broker.broker import Broker, UnavailableError
from gateway.broker.multiplex.budget import OpenBytes
from gateway.broker.multiplex.commits import Commits
from gateway.broker.multiplex.waits import WaitingOpen
from gateway.broker.queues.collection import IllegalNameError, legal
from gateway.broker.queues.queue import PersistentQueue
from gateway.broker.queues.reads import OpenItem, ReadMode, Settler, take_back
from gateway.broker.queues.serving import serve_soon
from gateway.broker.storage.batch import StoredItem, Ticket
from gateway.common.multiplex.frames import LAST, BrokenFrameError, Frame, FrameKind
from gateway.common.multiplex.messages import Code, Opening, pack_expiry, unpack_ids, unpack_opening

DELETED: Final = b"\1"
"""The payload of a TAKEN_BACK whose item was deleted."""


class ReadingWorker(Protocol):
    """The connection. blocked: see MultiplexedConnection."""

    @property
    def blocked(self) -> bool: ...
    def done(self, id_: int, codes: list[Code], why: str = "") -> None: ...
    def end(self, id_: int, code: Code, why: str = "") -> None: ...
    def carry(self, turn: object, kind: FrameKind, id_: int, payload: bytes = b"", flags: int = 0) -> None: ...


class MultiplexedReads:
    """Opens, confirms, aborts and peeks of one worker."""

    def __init__(self, broker: Broker, commits: Commits, worker: ReadingWorker) -> None:
        self._broker = broker
        self._commits = commits
        self._worker = worker
        self.budget = OpenBytes(broker.loop)
        self._reads: dict[int, OpenItem] = {}  # in the order in which they were taken
        self._counts: dict[Settler, int] = {}  # of these reads
        self._waits: dict[int, WaitingOpen] = {}
        self._deferred: dict[int, Opening] = {}  # while the worker takes no items
        self._named: dict[int, dict[int, Opening]] = {}  # by the open read that must be confirmed first
        self._creating: dict[int, Opening] = {}  # while their fanout child is written

    def __repr__(self) -> str:
        return f"<MultiplexedReads {len(self._reads)} reads, {len(self._waits)} waits>"

    @property
    def deferred(self) -> int:
        """How many opens are deferred."""
        return len(self._deferred)

    # Opening

    def open(self, message: Frame) -> None:
        """OPEN. Raises BrokenFrameError."""
        opening = unpack_opening(message.payload)
        id_ = message.id
        if id_ in self._reads or id_ in self._waits or not id_:
            raise BrokenFrameError(f"the id {id_} is in use")
        if opening.after:
            self._named.setdefault(opening.after, {})[id_] = opening
        else:
            self._open(id_, opening)

    def _open(self, id_: int, opening: Opening) -> None:
        broker = self._broker
        if self._worker.blocked:
            self._deferred[id_] = opening
            return
        queue = self._queue(id_, opening.key, create=b"+" not in opening.key)
        if queue is None:
            return
        if opening.cap and self._counts.get(queue, 0) >= opening.cap:
            self._worker.end(id_, Code.CAPPED)
            return
        if queue.is_child and queue.creation is not None and not queue.creation.done:
            self._creating[id_] = opening
            self._commits.after(queue.creation, lambda error: self._created(id_, error))
            return
        broker.counters.cmd_get += 1
        room = self.budget.has_room(opening.tenant, queue)
        found = queue.read(ReadMode.OPEN, self) if room else None
        if found is not None:
            item, read, _ = found
            assert read is not None
            self._give(id_, opening, queue, item, read)
        elif opening.wait_ms or (room and queue.backlog.starved):
            self._waits[id_] = WaitingOpen(self, id_, opening, queue, ReadMode.OPEN)
        else:
            broker.counters.get_misses += 1
            self._worker.end(id_, Code.EMPTY if room else Code.NO_ROOM)

    def _queue(self, id_: int, key: bytes, *, create: bool) -> PersistentQueue | None:
        """The queue to read; if it cannot be read, the open or peek ends."""
        try:
            self._broker.require_readable()
            if create:
                return self._broker.queues.get(key)
            queue = self._broker.queues.find(key)
        except IllegalNameError:
            self._worker.end(id_, Code.ILLEGAL_NAME)
        except (UnavailableError, OverflowError) as exc:
            self._worker.end(id_, Code.REFUSED, str(exc))
        else:
            if queue is None:
                self._worker.end(id_, Code.EMPTY if legal(key) else Code.ILLEGAL_NAME)
            return queue
        return None

    def add(self, read: OpenItem) -> None:
        """See gateway.broker.queues.reads.ReadOwner. `_give` adds it, under its number."""

    def _created(self, id_: int, error: str | None) -> None:
        """The fanout child that an open names is on disk: it gets every later item of its parent."""
        opening = self._creating.pop(id_, None)
        if opening is None:
            return
        if error is not None:
            self._worker.end(id_, Code.REFUSED, error)
        else:
            self._open(id_, opening)

    def _give(self, id_: int, opening: Opening, queue: PersistentQueue, item: StoredItem, read: OpenItem) -> None:
        """The first item of an open, and those that are ready behind it."""
        size = len(item.data)
        for number in range(id_, id_ + opening.items):
            read.on_void = self._taken_back
            read.number = number
            self._reads[number] = read
            self.budget.take(number, opening.tenant, len(item.data))
            count = self._counts[queue] = self._counts.get(queue, 0) + 1
            self._broker.counters.get_hits += 1
            found = None
            if number + 1 < id_ + opening.items and not 0 < opening.cap <= count:
                head = queue.head()
                if (
                    head is not None
                    and size + len(head.data) <= opening.limit_bytes
                    and self.budget.admits(opening.tenant, len(head.data))
                ):
                    found = queue.read(ReadMode.OPEN, self)
            self._worker.carry(queue.name, FrameKind.ITEM, number, item.data, LAST if found is None else 0)
            if found is None:
                return
            item, next_read, _ = found
            assert next_read is not None
            read = next_read
            size += len(item.data)

    # While they wait

    @property
    def blocked(self) -> bool:
        """See WaitingOpen."""
        return self._worker.blocked

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """See WaitingOpen."""
        return self._broker.loop

    def receive(self, wait: WaitingOpen, item: StoredItem, read: OpenItem | None) -> None:
        """The wait is over with an item; `read` is None if it only peeks."""
        del self._waits[wait.id]
        if read is None:
            self._worker.carry(wait.queue.name, FrameKind.PEEKED, wait.id, item.data)
        else:
            self._give(wait.id, wait.opening, wait.queue, item, read)

    def nothing(self, wait: WaitingOpen, error: str | None) -> None:
        """The wait is over without an item."""
        del self._waits[wait.id]
        self._broker.counters.get_misses += wait.mode is ReadMode.OPEN
        self._worker.end(wait.id, Code.EMPTY if error is None else Code.REFUSED, error or "")

    def unblocked(self) -> None:
        """The worker takes items again."""
        deferred, self._deferred = self._deferred, {}
        for id_, opening in deferred.items():
            self._open(id_, opening)
        serve_soon(self._broker.loop, dict.fromkeys(wait.queue for wait in self._waits.values()))

    def cancel(self, message: Frame) -> None:
        """CANCEL. Answers nothing if the open is over: its answer is under way."""
        id_ = message.id
        wait = self._waits.pop(id_, None)
        if wait is not None:
            wait.leave()
            self._worker.end(id_, Code.CANCELLED)
            return
        for opens in (self._deferred, self._creating, *self._named.values()):
            if opens.pop(id_, None) is not None:
                self._worker.end(id_, Code.CANCELLED)

    def peek(self, message: Frame) -> None:
        """PEEK. It creates no queue: workers look at queues that another client may have just deleted."""
        id_ = message.id
        queue = self._queue(id_, message.payload, create=False)
        if queue is None:
            return
        self._broker.counters.cmd_peek += 1
        found = queue.read(ReadMode.PEEK, self)
        if found is not None:
            self._worker.carry(queue.name, FrameKind.PEEKED, id_, found[0].data)
        elif queue.backlog.starved:
            self._waits[id_] = WaitingOpen(self, id_, Opening(message.payload), queue, ReadMode.PEEK)
        else:
            self._worker.end(id_, Code.EMPTY)

    # Settling

    def confirm(self, message: Frame) -> None:
        """CONFIRM. Raises BrokenFrameError."""
        ids = unpack_ids(message.payload)
        codes: list[Code] = []
        committing: Ticket | None = None
        for id_ in ids:
            read = self._forget(id_)
            ticket = None if read is None else read.queue.confirm(read)
            codes.append(Code.UNKNOWN if ticket is None else Code.OK)
            committing = ticket or committing
        if committing is None:
            self._confirmed(message.id, ids, codes, None)
        else:
            self._commits.after(committing, partial(self._confirmed, message.id, ids, codes))

    def _confirmed(self, id_: int, ids: Sequence[int], codes: list[Code], error: str | None) -> None:
        if error is not None:
            codes = [Code.REFUSED if code is Code.OK else code for code in codes]
        self._worker.done(id_, codes, error or "")
        self.budget.give_back(ids)
        if self._named:
            for read_id, code in zip(ids, codes, strict=True):
                self._named_confirmed(read_id, succeeded=code is Code.OK)

    def _named_confirmed(self, read_id: int, *, succeeded: bool) -> None:
        """A confirm is over: the opens that name its read go on."""
        for opening_id, opening in self._named.pop(read_id, {}).items():
            if succeeded:
                self._open(opening_id, opening)
            else:
                self._worker.end(opening_id, Code.FAILED)

    def abort(self, message: Frame) -> None:
        """ABORT. Raises BrokenFrameError."""
        codes: list[Code] = []
        reads: list[OpenItem] = []
        for id_ in unpack_ids(message.payload):
            read = self._forget(id_)
            codes.append(Code.UNKNOWN if read is None else Code.OK)
            if read is not None:
                reads.append(read)
        queues = take_back(reads)
        self._worker.done(message.id, codes)
        self.budget.give_back(read.number for read in reads)
        serve_soon(self._broker.loop, queues)

    def check(self, message: Frame) -> None:
        """CHECK. Raises BrokenFrameError."""
        reads = self._reads
        ids = unpack_ids(message.payload)
        codes = [Code.OK if id_ in reads else Code.UNKNOWN for id_ in ids]
        only = reads.get(ids[0]) if len(ids) == 1 else None
        self._worker.done(message.id, codes, pack_expiry(only.item.expires_ms) if only is not None else "")

    def _taken_back(self, read: OpenItem) -> None:
        """The queue has ended the read."""
        self._forget(read.number)
        queue = read.queue
        self._worker.carry(queue.name, FrameKind.TAKEN_BACK, read.number, DELETED if queue.deleted else b"")
        self.budget.give_back((read.number,))

    def _forget(self, id_: int) -> OpenItem | None:
        """The open read with this id, which is over; None if there is none."""
        read = self._reads.pop(id_, None)
        if read is not None:
            read.on_void = None
            left = self._counts[read.queue] - 1
            if left:
                self._counts[read.queue] = left
            else:
                del self._counts[read.queue]
        return read

    # The end

    def close(self) -> None:
        """The connection is over (rule 3)."""
        waits, self._waits = self._waits, {}
        for wait in waits.values():
            wait.leave()
        for opens in (self._deferred, self._creating, self._named):
            opens.clear()
        reads, self._reads = self._reads, {}
        self._counts.clear()
        for read in reads.values():
            read.on_void = None
        serve_soon(self._broker.loop, take_back(reads.values()))


HANDLERS: Final[dict[int, Callable[[MultiplexedReads, Frame], None]]] = {
    FrameKind.OPEN: MultiplexedReads.open,
    FrameKind.CANCEL: MultiplexedReads.cancel,
    FrameKind.CONFIRM: MultiplexedReads.confirm,
    FrameKind.ABORT: MultiplexedReads.abort,
    FrameKind.CHECK: MultiplexedReads.check,
    FrameKind.PEEK: MultiplexedReads.peek,
}
