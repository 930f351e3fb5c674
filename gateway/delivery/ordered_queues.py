"""Which queues have jobs with a partition key, as far as this worker has seen. In memory and bounded.

A server does not tell what an item contains before the item is taken. A batch may have to know it earlier: see
gateway.delivery.filling_batch, rule 4.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Final

REMEMBERED_S: Final = 3600.0
"""How long after the last such job: one job by mistake must not make the batches of its queue small for ever."""
MOST_QUEUES: Final = 10_000
"""Above this number the queues that were seen longest ago are forgotten. One takes some 200 bytes."""


class OrderedQueues:
    """Queues by their Kestrel key."""

    def __init__(self) -> None:
        self._seen_s: OrderedDict[str, float] = OrderedDict()

    def add(self, key: str) -> None:
        """A job with a partition key is, or will be, on the queue."""
        self._seen_s[key] = time.monotonic()
        self._seen_s.move_to_end(key)
        if len(self._seen_s) > MOST_QUEUES:
            self._seen_s.popitem(last=False)

    def __contains__(self, key: str) -> bool:
        seen_s = self._seen_s.get(key)
        return seen_s is not None and time.monotonic() - seen_s < REMEMBERED_S
