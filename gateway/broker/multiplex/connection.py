"""The broker's end of one worker's multiplexed connection: which operation each frame is."""

from __future__ import annotations

import logging

from gateway.broker.broker import Broker
from gateway.broker.connections import Connections
from gateway.broker.multiplex.commits import Commits
from gateway.broker.multiplex.puts import Puts
from gateway.broker.multiplex.reads import HANDLERS, MultiplexedReads
from gateway.common.multiplex.frames import BrokenFrameError, Frame, FrameKind, frame
from gateway.common.multiplex.messages import VERSIONS, Code, pack_outcome
from gateway.common.multiplex.protocol import FrameConnection

log = logging.getLogger(__name__)


class MultiplexedConnection:
    """The connection of one worker, and the protocol of its socket, `frames`. versions: see VERSIONS.

    Implements gateway.common.multiplex.handler.FrameHandler and gateway.broker.connections.BrokerConnection.
    """

    is_local = True
    peer = "a worker"

    def __init__(self, broker: Broker, connections: Connections, versions: tuple[int, int] = VERSIONS) -> None:
        self.frames = FrameConnection(broker.loop, self, versions, broker.options.max_item_bytes)
        self._broker = broker
        self._connections = connections
        self._commits = Commits()
        self._puts = Puts(broker, self._commits, self.done, self.frames.give_credit)
        self._reads = MultiplexedReads(broker, self._commits, self)

    def __repr__(self) -> str:
        return f"<MultiplexedConnection {self._reads!r} {self.frames!r}>"

    # Answers

    @property
    def blocked(self) -> bool:
        """See FrameConnection."""
        return self.frames.blocked

    def carry(self, turn: object, kind: FrameKind, id_: int, payload: bytes = b"", flags: int = 0) -> None:
        """See FrameConnection."""
        self.frames.carry(turn, kind, id_, payload, flags)

    def done(self, id_: int, codes: list[Code], why: str = "") -> None:
        """Answers an operation."""
        self.frames.answer(frame(FrameKind.DONE, id_, pack_outcome(codes, why)))

    def end(self, id_: int, code: Code, why: str = "") -> None:
        """Answers an open or a peek that has no item."""
        self.frames.answer(frame(FrameKind.END, id_, pack_outcome([code], why)))

    # See FrameHandler

    def opened(self) -> None:
        self._connections.opened(self)

    def greeted(self, common: int | None) -> None:
        ours, theirs = self.frames.greeting, self.frames.theirs
        if theirs is not None:
            self._reads.budget.greeted(theirs)
        if common is None and theirs is not None:
            log.warning(
                "a worker uses memcache: it speaks versions %d to %d of the multiplexed protocol, this broker "
                "%d to %d; run the same version of both",
                theirs.lowest,
                theirs.highest,
                ours.lowest,
                ours.highest,
            )

    def handle(self, message: Frame) -> None:
        kind = message.kind
        handler = HANDLERS.get(kind)
        if handler is not None:
            handler(self._reads, message)
        elif kind == FrameKind.PUT:
            self._puts.put(message)
        elif kind == FrameKind.CREATE:
            self._puts.create(message)
        else:
            raise BrokenFrameError(f"kind {kind} is not for a broker")

    def gather(self) -> None:
        """Nothing is put off."""

    def unblocked(self) -> None:
        self._reads.unblocked()

    def credits_back(self) -> tuple[bool, bool]:
        return not self._puts, not self._reads.deferred

    def received(self, count: int) -> None:
        self._broker.counters.bytes_read += count

    def wrote(self, count: int) -> None:
        self._broker.counters.bytes_written += count

    def broken(self, error: BrokenFrameError) -> None:
        log.error("a worker's connection is closed: %s", error)

    def ended(self) -> None:
        self._puts.close()
        self._reads.close()
        self._connections.lost(self)

    # See BrokerConnection

    def refuse(self, _why: str) -> None:
        self.frames.close()

    def disconnect(self) -> None:
        self.frames.close()

    def check(self, quiet_since_s: float | None) -> None:
        """A worker may be quiet; its end is the end of its socket."""

    def stop(self) -> None:
        self.frames.drain()
        if self._commits:
            self._commits.on_empty = self.frames.close
        else:
            self.frames.close()
