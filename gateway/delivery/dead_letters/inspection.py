"""Looking after a queue's dead letters: how many there are, the oldest, and removing them. Asking creates nothing.

These are the letters that lie with their queue. Where its policy names another queue for them, they are jobs of that
one, where they are looked after like any others.
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
    """age_s: of the oldest, since it lies there. dead_letter: the queue that the policy names for new ones."""

    queue: str
    items: int
    bytes: int
    age_s: float
    dead_letter: str | None


class DeadLetterAdmin:
    """The dead letters that lie with their queues."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def get(self, queue: Queue, told: Told) -> DeadLetterFigures:
        """Raises QueueNotFound where there is neither the queue nor a letter; BackendUnavailable."""
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
        """The oldest letter, left where it is. Raises QueueEmpty; as `get`."""
        if (await self.get(queue, told)).items:
            peeked = await self._backend.look(own_key(queue))
            told(peeked.coverage)
            if peeked.data is not None:
                return unwrap(peeked.data)
        raise QueueEmpty(f"{queue.name!r} has no dead letters")

    async def delete(self, queue: Queue, told: Told) -> int:
        """They are gone for good; how many there were just before. Raises OutcomeUnknown; as `get`."""
        letters = await self.get(queue, told)
        if letters.items:
            told(await self._backend.delete(own_key(queue)))
        return letters.items
