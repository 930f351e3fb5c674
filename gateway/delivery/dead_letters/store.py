"""Where dead letters lie, and how a job becomes one. Knows no leases.

A queue's dead letters are on the queue that its policy names (`dead_letter`), else on its key with `__dead` behind it;
a fanout child's on `{queue}__{child}__subdead`, since a `+` would make that another child.
"""

from __future__ import annotations

import time
from enum import Enum

from gateway.delivery.backend import Backend
from gateway.delivery.queues.catalog import Catalog, Queue
from gateway.envelope.read import Job
from gateway.envelope.rewrite import DeadLetterMarks, DeadReason, dead_letter
from gateway.errors import BackendUnavailable, JobTooLarge, OutcomeUnknown, QueueFull
from gateway.names.namespace import CHILD_DEAD, DEAD, SEPARATOR


class Stored(Enum):
    """Whether a copy is on its queue. PERHAPS: it was sent and no answer came."""

    YES = "yes"
    NO = "no"
    PERHAPS = "perhaps"


async def store(backend: Backend, key: str, data: bytes, expiry: int = 0) -> Stored:
    """Puts a copy on a queue. Cancelled: PERHAPS."""
    try:
        await backend.put(key, data, expiry)
    except OutcomeUnknown:
        return Stored.PERHAPS
    except (QueueFull, JobTooLarge, BackendUnavailable):
        return Stored.NO
    return Stored.YES


class DeadLetters:
    """The dead letters of all queues."""

    def __init__(self, backend: Backend, catalog: Catalog) -> None:
        self._backend = backend
        self._catalog = catalog

    def key(self, queue: Queue) -> str:
        """Kestrel's name of the queue where the dead letters of `queue` lie; never its own."""
        named = queue.policy.dead_letter
        if named is not None:
            key = self._catalog.queue(queue.tenant, named).key
            if key != queue.key:
                return key
        return own_key(queue)

    def keys(self, queue: Queue) -> list[str]:
        """Everywhere they may lie: also where they were before a policy named another queue."""
        return list(dict.fromkeys([own_key(queue), self.key(queue)]))

    def is_shared(self, queue: Queue, key: str) -> bool:
        """Whether other queues may have their dead letters, or jobs, under that key, too."""
        return key != own_key(queue)

    async def add(self, queue: Queue, job: Job, item: bytes, *, death: DeadReason, attempts: int, error: str) -> Stored:
        """Puts the job there, with the reason, the time, the count and the queue it comes from. Cancelled: PERHAPS."""
        marks = DeadLetterMarks(death, queue.name, attempts, time.time(), error)
        return await store(self._backend, self.key(queue), dead_letter(job, item, marks).data)


def own_key(queue: Queue) -> str:
    """Kestrel's name for the letters that lie with the queue itself."""
    parent, plus, child = queue.key.partition("+")
    return SEPARATOR.join([parent, child, CHILD_DEAD] if plus else [parent, DEAD])
