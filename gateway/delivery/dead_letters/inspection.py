"""Managing a queue's dead letters: their number, the oldest one, and removing them. Reading creates nothing.

It covers the dead letters that are stored under their queue's own key. If the policy names another queue for them, they
are jobs of that queue and are managed there.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.coverage import Covered, least
from gateway.delivery.backend import Backend
from gateway.delivery.dead_letters.store import own_key
from gateway.delivery.figures.head_ages import HeadAges
from gateway.delivery.job_times import waiting_since
from gateway.delivery.queues.catalog import Queue
from gateway.envelope.read import Job, unwrap
from gateway.envelope.times import instant
from gateway.errors import GatewayError, QueueEmpty, QueueNotFound
from gateway.queue_stats import MergedStats, QueueStats


@dataclass(frozen=True, slots=True)
class DeadLetterFigures:
    """items: with those that consumers hold open. bytes: without them. age_s: since the oldest became a dead letter.

    dead_letter: the queue that the policy names for new ones.
    """

    queue: str
    items: int
    bytes: int
    age_s: float
    dead_letter: str | None


class DeadLetterAdmin:
    """The dead letters that are stored under the keys of their queues."""

    def __init__(self, backend: Backend, ages: HeadAges) -> None:
        self._backend = backend
        self._ages = ages

    async def get(self, queue: Queue) -> Covered[DeadLetterFigures | GatewayError]:
        """Their figures, or QueueNotFound if neither the queue nor a dead letter exists. Raises BackendUnavailable."""
        found = await self._figures(queue)
        if isinstance(found.result, GatewayError):
            return Covered(found.result, found.coverage)
        key = own_key(queue)
        merged = await self._ages.peeked(key, found.result, queue.tenant, _dead_since)
        stats = merged.queues.get(key, QueueStats())
        items = stats.items + stats.open_reads
        figures = DeadLetterFigures(queue.name, items, stats.bytes, stats.age_ms / 1000, queue.policy.dead_letter)
        return Covered(figures, merged.coverage)

    async def count(self, queue: Queue) -> Covered[int | GatewayError]:
        """Their number, with those that consumers hold open; as `get`."""
        found = await self._figures(queue)
        if isinstance(found.result, GatewayError):
            return Covered(found.result, found.coverage)
        stats = found.result.queues.get(own_key(queue), QueueStats())
        return Covered(stats.items + stats.open_reads, found.coverage)

    async def _figures(self, queue: Queue) -> Covered[MergedStats | GatewayError]:
        """Kestrel's figures of the queue and of their key; as `get`."""
        merged = await self._backend.queue_stats(queue.key, own_key(queue))
        if not {queue.key, own_key(queue)} & merged.queues.keys():
            error = QueueNotFound(f"there is no queue {queue.name!r}, and it has no dead letters")
            return Covered(error, merged.coverage)
        return Covered(merged, merged.coverage)

    async def peek(self, queue: Queue) -> Covered[Job | GatewayError]:
        """The oldest dead letter, which stays in place, or QueueEmpty; as `get`."""
        found = await self.count(queue)
        if isinstance(found.result, GatewayError):
            return Covered(found.result, found.coverage)
        empty = QueueEmpty(f"{queue.name!r} has no dead letters")
        if not found.result:
            return Covered(empty, found.coverage)
        peeked = await self._backend.peek(own_key(queue))
        letter = empty if peeked.result is None else unwrap(peeked.result)
        return Covered(letter, least(found.coverage, peeked.coverage))

    async def delete(self, queue: Queue) -> Covered[int | GatewayError]:
        """Removes them permanently; returns how many there were just before. Raises OutcomeUnknown; as `get`."""
        found = await self.count(queue)
        if isinstance(found.result, GatewayError):
            return Covered(found.result, found.coverage)
        deleted = await self._backend.delete(own_key(queue)) if found.result else None
        return Covered(found.result, least(found.coverage, deleted))


def _dead_since(letter: Job) -> float | None:
    """The Unix time at which the job became a dead letter; that of its enqueue if the item does not say."""
    try:
        return instant(str(letter.event["deadtime"]))
    except (KeyError, ValueError):
        return waiting_since(letter)
