"""Managing a queue's dead letters: their number, the oldest one, and removing them. Reading creates nothing.

It covers the dead letters that are stored under their queue's own key. If the policy names another queue for them, they
are jobs of that queue and are managed there.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.delivery.backend import Backend, Told
from gateway.delivery.dead_letters.store import own_key
from gateway.delivery.queues.catalog import Queue
from gateway.envelope.read import Job, unwrap
from gateway.errors import QueueEmpty, QueueNotFound


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

    async def get(self, queue: Queue, told: Told) -> DeadLetterFigures:
        """Raises QueueNotFound if neither the queue nor a dead letter exists; BackendUnavailable."""
        key = own_key(queue)
        survey = await self._backend.survey(queue.key, key)
        told(survey.coverage)
        stats = survey.queues.get(key)
        if stats is None and queue.key not in survey.queues:
            raise QueueNotFound(f"there is no queue {queue.name!r}, and it has no dead letters")
        named = queue.policy.dead_letter
        if stats is None:
            return DeadLetterFigures(queue.name, 0, 0, 0.0, named)
        return DeadLetterFigures(queue.name, stats.items, stats.bytes, stats.age_ms / 1000, named)

    async def peek(self, queue: Queue, told: Told) -> Job:
        """The oldest dead letter, which stays in place. Raises QueueEmpty, and what `get` raises."""
        if (await self.get(queue, told)).items:
            peeked = await self._backend.look(own_key(queue))
            told(peeked.coverage)
            if peeked.data is not None:
                return unwrap(peeked.data)
        raise QueueEmpty(f"{queue.name!r} has no dead letters")

    async def delete(self, queue: Queue, told: Told) -> int:
        """Removes them permanently; returns how many there were just before. Raises OutcomeUnknown and as `get`."""
        letters = await self.get(queue, told)
        if letters.items:
            told(await self._backend.delete(own_key(queue)))
        return letters.items
