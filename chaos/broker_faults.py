"""Planted faults of the embedded broker: its side of the multiplexed connection breaks a promise.

chaos/planted/sitecustomize.py plants the one that the environment names, in the broker's process alone.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.broker.multiplex.reads import HANDLERS, MultiplexedReads
from gateway.common.multiplex.frames import Frame, FrameKind
from gateway.common.multiplex.messages import Code, unpack_ids

GAP_S = 0.8
"""How long the broken promise is open: what is killed then shows it."""
VARIABLE = "CHAOS_BROKER_FAULT"


def ack_before_the_commit() -> None:
    """Answers a confirm at once, and removes the items a moment later."""
    confirm = MultiplexedReads.confirm

    def confirm_later(reads: MultiplexedReads, message: Frame) -> None:
        reads._worker.done(message.id, [Code.OK] * len(unpack_ids(message.payload)))
        reads.loop.call_later(GAP_S, confirm, reads, message)

    HANDLERS[FrameKind.CONFIRM] = confirm_later


def reads_dropped_at_eof() -> None:
    """Forgets the open reads of a connection that ends, where their items should be put back."""
    close = MultiplexedReads.close

    def drop(reads: MultiplexedReads) -> None:
        for read in reads._reads.values():
            read.queue.open_reads.close(read)  # type: ignore[attr-defined]
        close(reads)

    setattr(MultiplexedReads, "close", drop)  # noqa: B010 (mypy allows no other way)


BROKER_FAULTS: dict[str, Callable[[], None]] = {
    each.__name__: each for each in (ack_before_the_commit, reads_dropped_at_eof)
}
