"""Whether a fanout child exists. Kestrel creates a child that a read names, so each read asks first.

An answer that a child exists is cached for FRESH_S. An answer that it does not is never cached, so every worker finds a
new child at once. A read that is under way while its child is deleted does not create it either: see
gateway.kestrel.wire.codec.KestrelClient.take_existing.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Final

from gateway.common.counted import counted
from gateway.coverage import Coverage
from gateway.delivery.backend import Backend
from gateway.delivery.queues.catalog import Queue
from gateway.errors import BackendUnavailable, QueueNotFound

FRESH_S: Final = 0.25
_KEPT: Final = 10_000


class ExistingChildren:
    """The children that existed a moment ago, by Kestrel key."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._seen: OrderedDict[str, float] = OrderedDict()

    def seen(self, child: Queue) -> bool:
        """Whether `require` returns at once."""
        return time.monotonic() - self._seen.get(child.key, float("-inf")) <= FRESH_S

    async def require(self, child: Queue) -> None:
        """Returns if the child exists on some server.

        Raises: QueueNotFound: no server has it. BackendUnavailable: none of those that answer.
        """
        if self.seen(child):
            return
        missing_on = await self._backend.missing(child.key)
        if missing_on is not None:
            self.forget(child)
            error = no_subscription(child, missing_on)
            error.coverage = str(missing_on) if missing_on.partial else ""
            raise error
        self._seen[child.key] = time.monotonic()
        self._seen.move_to_end(child.key)
        if len(self._seen) > _KEPT:
            self._seen.popitem(last=False)

    def forget(self, child: Queue) -> None:
        """The child does not exist any more."""
        self._seen.pop(child.key, None)


def no_subscription(child: Queue, coverage: Coverage, *, wanted: bool = True) -> QueueNotFound | BackendUnavailable:
    """The error for a child that no asked server has; BackendUnavailable if not all were asked.

    wanted: whether it would help the caller if the child existed.
    """
    if coverage.partial:
        return BackendUnavailable(
            f"no server that answers has the subscription {child.name!r}, and only {coverage.asked} of "
            f"{counted(coverage.total, 'server')} answer"
        )
    advice = f"; create it with PUT /queues/{child.parent}/subscriptions/{child.child}" if wanted else ""
    return QueueNotFound(f"the queue {child.parent!r} has no subscription {child.child!r}{advice}")
