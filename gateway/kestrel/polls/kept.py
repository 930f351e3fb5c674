"""The items of a queue that no waiter has (rule 8 of gateway.kestrel.polls.rules). Plain state."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterable

from gateway.kestrel.polls.values import Abort, PolledItem, ServerQueue, Waiter


class KeptItems:
    """The items in the order of their numbers.

    back_at: the time from which they go back. keep_s: how long the latest one is kept, until `back_at` is set.
    settling: the waits are closed, and the items go back at `back_at`. going: the queues to which one is going back.
    """

    __slots__ = ("back_at", "going", "items", "keep_s", "settling")

    def __init__(self) -> None:
        self.items: list[tuple[int, PolledItem, ServerQueue]] = []
        self.back_at = math.inf
        self.keep_s: float | None = None
        self.settling = False
        self.going: set[ServerQueue] = set()

    def keep(self, item: PolledItem, queue: ServerQueue, for_s: float) -> None:
        """Keeps the item for this long, and for GATHER_S while a get may bring another one."""
        insort(self.items, (item.number, item, queue))
        self.keep_s = for_s

    def drop(self, queue: ServerQueue) -> list[PolledItem]:
        """Removes and returns the items of the queue, the oldest first."""
        dropped = [each for each in self.items if each[2] is queue]
        self.items = [each for each in self.items if each[2] is not queue]
        return [item for _, item, _ in dropped]

    def next_back(self, queue: ServerQueue, given: Iterable[Waiter]) -> list[Abort]:
        """Removes the newest item of the queue and aborts its read; nothing if there is none.

        If a waiter of `given` has a newer one, which may have to go first, the item goes back after that.
        """
        newest = max((number for number, _, each in self.items if each is queue), default=math.inf)
        if any(each.queue is queue and each.item is not None and each.item.number > newest for each in given):
            self.back_at = -math.inf
            return []
        for each in reversed(self.items):
            if each[2] is queue:
                self.items.remove(each)
                if not each[1].lost:
                    self.going.add(queue)
                    return [Abort(each[1], queue)]
        return []
