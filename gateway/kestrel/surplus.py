"""Items of one queue that were taken and that nobody is there for. Owns the order in which they go back.

1. The oldest serves whoever comes next.
2. An item goes back to the head of its queue: the newest of a server goes first, and each is back before the next is
   sent, so that the queue has its order again. Where one was not seen to go back, the others are given back at once.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from functools import partial

from gateway.kestrel.counters import Counters
from gateway.kestrel.reads import OpenRead
from gateway.kestrel.server.server import Server


class Surplus:
    """Items for nobody, in the order in which they were taken. done: is told when a server's are all on their way."""

    __slots__ = ("_counters", "_done", "_going", "_reads")

    def __init__(self, counters: Counters, done: Callable[[], None]) -> None:
        self._counters = counters
        self._done = done
        self._reads: list[OpenRead] = []
        self._going: set[Server] = set()

    def __bool__(self) -> bool:
        """Whether one is kept, or on its way."""
        return bool(self._reads or self._going)

    def add(self, read: OpenRead) -> None:
        """It is kept until it is taken or goes back."""
        insort(self._reads, read, key=_number)

    def take(self) -> OpenRead | None:
        """The oldest that is not lost, and that its server may hold for us; it is the caller's."""
        for read in self._reads:
            if not read.lost and read.held_by.items.room(read.tenant) >= 0:
                self._reads.remove(read)
                return read
        return None

    def hand_back(self) -> None:
        """Begins to put all of them back; those that have not gone can still be taken."""
        for server in {read.held_by for read in self._reads} - self._going:
            self._next(server, True)

    def give_back(self) -> None:
        """All of them go back now, with their connections."""
        reads, self._reads = self._reads, []
        for read in reversed(reads):
            self._counters.given_back_unserved += 1
            read.give_back()

    def _next(self, server: Server, gone: bool) -> None:
        self._going.discard(server)
        while (read := self._newest(server)) is not None:
            self._counters.given_back_unserved += 1
            if gone:
                self._going.add(server)
                read.hand_back(partial(self._next, server))
                return
            read.give_back()
        self._done()

    def _newest(self, server: Server) -> OpenRead | None:
        for read in reversed(self._reads):
            if read.held_by is server:
                self._reads.remove(read)
                if not read.lost:
                    return read
        return None


def _number(read: OpenRead) -> int:
    return read.number
