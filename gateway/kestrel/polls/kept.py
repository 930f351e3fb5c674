"""The items of a queue that no waiter has (rule 8 of gateway.kestrel.polls.rules). Plain state."""

from __future__ import annotations

import math
from bisect import insort

from gateway.kestrel.polls.values import Abort, PolledItem, Source


class KeptItems:
    """The items in the order of their numbers.

    back_at: the time from which they go back. keep_s: how long the latest one is kept, until `back_at` is set.
    settling: the waits are closed, and the items go back at `back_at`. going: the sources to which one is going back.
    """

    __slots__ = ("back_at", "going", "items", "keep_s", "settling")

    def __init__(self) -> None:
        self.items: list[tuple[int, PolledItem, Source]] = []
        self.back_at = math.inf
        self.keep_s: float | None = None
        self.settling = False
        self.going: set[Source] = set()

    def keep(self, item: PolledItem, source: Source, for_s: float) -> None:
        """Keeps the item for this long, and for GATHER_S while a get may bring another one."""
        insort(self.items, (item.number, item, source))
        self.keep_s = for_s

    def drop(self, source: Source) -> list[PolledItem]:
        """Removes and returns the items of the source, the oldest first."""
        dropped = [each for each in self.items if each[2] is source]
        self.items = [each for each in self.items if each[2] is not source]
        return [item for _, item, _ in dropped]

    def next_back(self, source: Source) -> list[Abort]:
        """Removes the newest item of the source and aborts its read; nothing if there is none."""
        for each in reversed(self.items):
            if each[2] is source:
                self.items.remove(each)
                if not each[1].lost:
                    self.going.add(source)
                    return [Abort(each[1], source)]
        return []
