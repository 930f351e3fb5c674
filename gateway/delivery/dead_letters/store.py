"""Where dead letters are stored, and how a job becomes one. Knows no leases.

A queue's dead letters are on the queue that its policy names (`dead_letter`), otherwise under its own key plus
`__dead`. Those of a fanout child are under `{queue}__{child}__subdead`, because a `+` would make that another child.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable
from enum import Enum

from gateway.delivery.backend import Backend
from gateway.delivery.queues.catalog import Catalog, Queue
from gateway.envelope.read import Job
from gateway.envelope.rewrite import DeadLetterMarks, DeadReason, dead_letter
from gateway.errors import BackendUnavailable, JobTooLarge, OutcomeUnknown, QueueFull
from gateway.names.namespace import CHILD_DEAD, DEAD, FANOUT, SEPARATOR


class Stored(Enum):
    """Whether a copy is on its queue. PERHAPS: it was sent, but no answer came."""

    YES = "yes"
    NO = "no"
    PERHAPS = "perhaps"


async def store(backend: Backend, key: str, data: bytes, expiry: int = 0) -> Stored:
    """Puts a copy on a queue. Cancelled: the outcome is PERHAPS."""
    return await stored_by(backend.put(key, data, expiry))


async def stored_by(put: Awaitable[None]) -> Stored:
    """The outcome of a put. Cancelled: it is PERHAPS."""
    try:
        await put
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
        """Kestrel's key for the dead letters of `queue`; never the key of the queue itself."""
        named = queue.policy.dead_letter
        if named is not None:
            key = self._catalog.queue(queue.tenant, named).key
            if key != queue.key:
                return key
        return own_key(queue)

    def keys(self, queue: Queue) -> list[str]:
        """Every key under which they may be stored, including the one from before a policy named another queue."""
        return list(dict.fromkeys([own_key(queue), self.key(queue)]))

    def is_shared(self, queue: Queue, key: str) -> bool:
        """Whether other queues may also store dead letters, or jobs, under that key."""
        return key != own_key(queue)

    async def add(
        self, queue: Queue, job: Job, item: bytes, *, dead_reason: DeadReason, attempts: int, error: str
    ) -> Stored:
        """Stores the job there with reason, time, attempts and the queue it comes from. Cancelled: PERHAPS."""
        marks = DeadLetterMarks(dead_reason, queue.name, attempts, time.time(), error)
        return await store(self._backend, self.key(queue), dead_letter(job, item, marks).data)


def own_key(queue: Queue) -> str:
    """Kestrel's key for dead letters that are stored with the queue itself."""
    return _key_of_letters(queue.key)


def dead_key(catalog: Catalog, key: str) -> str | None:
    """Kestrel's key for the dead letters of the queue with the key; None if no request can name that queue."""
    return None if catalog.owner_of(key) is None else _key_of_letters(key)


def _key_of_letters(key: str) -> str:
    parent, plus, child = key.partition(FANOUT)
    return SEPARATOR.join([parent, child, CHILD_DEAD] if plus else [parent, DEAD])
