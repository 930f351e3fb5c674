"""Managing a queue's dead letters: their number, the oldest one, and removing them. Reading creates nothing.

It covers the dead letters that are stored under their queue's own key. If the policy names another queue for them, they
are jobs of that queue and are managed there.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.coverage import Covered, least
from gateway.delivery.backend import Backend
from gateway.delivery.dead_letters.store import own_key
from gateway.delivery.queues.catalog import Queue
from gateway.envelope.read import Job, unwrap
from gateway.errors import GatewayError, QueueEmpty, QueueNotFound
from gateway.queue_stats import QueueStats


@dataclass(frozen=True, slots=True)
class DeadLetterFigures:
    """age_s: how long the oldest has been stored. dead_letter: the queue that the policy names for new ones."""

    queue: str
    items: int
    bytes: int
    age_s: float
    dead_letter: str | None


class DeadLetterAdmin:
    """The dead letters that are stored under the keys of their queues."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def get(self, queue: Queue) -> Covered[DeadLetterFigures | GatewayError]:
        """Their figures, or QueueNotFound if neither the queue nor a dead letter exists. Raises BackendUnavailable."""
        key = own_key(queue)
        merged = await self._backend.queue_stats(queue.key, key)
        stats = merged.queues.get(key)
        if stats is None and queue.key not in merged.queues:
            error = QueueNotFound(f"there is no queue {queue.name!r}, and it has no dead letters")
            return Covered(error, merged.coverage)
        stats = stats or QueueStats()
        figures = DeadLetterFigures(queue.name, stats.items, stats.bytes, stats.age_ms / 1000, queue.policy.dead_letter)
        return Covered(figures, merged.coverage)

    async def peek(self, queue: Queue) -> Covered[Job | GatewayError]:
        """The oldest dead letter, which stays in place, or QueueEmpty; as `get`."""
        found = await self.get(queue)
        if isinstance(found.result, GatewayError):
            return Covered(found.result, found.coverage)
        empty = QueueEmpty(f"{queue.name!r} has no dead letters")
        if not found.result.items:
            return Covered(empty, found.coverage)
        peeked = await self._backend.peek(own_key(queue))
        letter = empty if peeked.result is None else unwrap(peeked.result)
        return Covered(letter, least(found.coverage, peeked.coverage))

    async def delete(self, queue: Queue) -> Covered[int | GatewayError]:
        """Removes them permanently; returns how many there were just before. Raises OutcomeUnknown; as `get`."""
        found = await self.get(queue)
        if isinstance(found.result, GatewayError):
            return Covered(found.result, found.coverage)
        deleted = await self._backend.delete(own_key(queue)) if found.result.items else None
        return Covered(found.result.items, least(found.coverage, deleted))
