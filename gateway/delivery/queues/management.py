"""Managing queues: list, statistics, peek, flush, delete. Reading never creates a queue."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from gateway.coverage import Coverage, Covered, least
from gateway.delivery.attempts import Attempts, identity
from gateway.delivery.backend import Backend
from gateway.delivery.dead_letters.store import dead_key, own_key
from gateway.delivery.figures.head_ages import HeadAges
from gateway.delivery.queues.catalog import Catalog, Queue
from gateway.delivery.queues.known import KnownQueues
from gateway.delivery.subscriptions.existing import no_subscription
from gateway.envelope.read import Job, raw, unwrap
from gateway.errors import GatewayError, QueueEmpty, QueueNotFound
from gateway.fairness.turns import Turns
from gateway.forwarding.router import LeaseRouter
from gateway.queue_stats import QueueStats

ASKED_AT_ONCE: Final = 200
"""Queues per question to Kestrel in a list. One turn of the loop reads their figures."""
NOBODYS_KEY: Final = "_"
"""A name that no queue can have. Asked for a tenant without queues, to learn how many servers answer."""


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """One queue's figures, with the names of openapi.yaml. age_s: of the oldest waiting job. waiters: blocked gets.
    backlog: jobs that are not done, waiting or taken. dead_letters: those that are stored with the queue, with those
    that consumers hold open.

    reachable: whether a request can name the queue; if not, `queue` is Kestrel's key.
    """

    queue: str
    items: int
    bytes: int
    age_s: float
    open_reads: int
    backlog: int
    waiters: int
    total_items: int
    expired_items: int
    discarded_items: int
    dead_letters: int
    reachable: bool = True


class Queues:
    """The queues of the deployment, by their logical names. attempts: as this worker counts them on delivery."""

    def __init__(  # noqa: PLR0917 (one caller)
        self,
        backend: Backend,
        catalog: Catalog,
        lease_router: LeaseRouter,
        known: KnownQueues,
        turns: Turns,
        attempts: Attempts,
        ages: HeadAges,
    ) -> None:
        self._ages = ages
        self._attempts = attempts
        self._backend = backend
        self._known = known
        self._catalog = catalog
        self._lease_router = lease_router
        self._turns = turns

    async def list(self, tenant: str, at_s: float) -> AsyncIterator[Covered[list[QueueInfo]]]:
        """Every queue of the tenant, also those that no request can name, ASKED_AT_ONCE at a time.

        at_s: the Unix time for which ages are shown, so that those of one list can be compared.

        In a deployment with many queues, a queue that was created elsewhere is missing until the next correction of the
        known queues. Ages are by the heads of the last round of figures. Raises BackendUnavailable.
        """
        await self._known.corrected_if_soon(time.monotonic())
        keys = self._known.keys(tenant) or [NOBODYS_KEY]
        for start in range(0, len(keys), ASKED_AT_ONCE):
            some = keys[start : start + ASKED_AT_ONCE]
            letters = {key: dead for key in some if (dead := dead_key(self._catalog, key)) is not None}
            merged = await self._backend.queue_stats(*some, *letters.values())
            merged = await self._ages.known(merged, tenant, at_s)
            found = merged.queues
            shown = (
                listed_queue(self._catalog, tenant, key, found[key], found.get(letters.get(key, "")))
                for key in some
                if key in found
            )
            yield Covered([each for each in shown if each is not None], merged.coverage)

    async def get(
        self, queue: Queue, *, missing: QueueStats | None = None
    ) -> Covered[tuple[QueueInfo, dict[str, QueueInfo]] | GatewayError]:
        """Its figures, of all servers together and by server, or QueueNotFound. Looks at its head for the age.

        missing: the figures of a queue that does not exist, in place of the error. Raises BackendUnavailable.
        """
        letters = own_key(queue)
        merged = await self._backend.queue_stats(queue.key, letters)
        merged = await self._ages.peeked(queue.key, merged, queue.tenant)
        stats = merged.queues.get(queue.key, missing)
        if stats is None:
            return Covered(_not_found(queue, merged.coverage), merged.coverage)
        servers = {
            name: queue_info(queue.name, queues[queue.key], queues.get(letters))
            for name, queues in merged.servers.items()
            if queue.key in queues
        }
        return Covered((queue_info(queue.name, stats, merged.queues.get(letters)), servers), merged.coverage)

    async def existing(self, queue: Queue) -> Covered[GatewayError | None]:
        """None if the queue exists, else QueueNotFound. Raises BackendUnavailable."""
        merged = await self._backend.queue_stats(queue.key)
        error = None if queue.key in merged.queues else _not_found(queue, merged.coverage)
        return Covered(error, merged.coverage)

    async def peek(self, queue: Queue) -> Covered[Job | GatewayError]:
        """The job at the head, which stays in place, or QueueNotFound or QueueEmpty. Raises BackendUnavailable.

        Its attempt is that of its next delivery by this worker. An expired job is not shown, because it will never be
        delivered.
        """
        found = await self.existing(queue)
        if isinstance(found.result, GatewayError):
            return Covered(found.result, found.coverage)
        peeked = await self._backend.peek(queue.key)
        if peeked.result is not None:
            await self._turns.for_item(peeked.result, queue.tenant)
        return Covered(self._head(queue, peeked.result), least(found.coverage, peeked.coverage))

    async def flush(self, queue: Queue) -> Covered[GatewayError | None]:
        """Removes every waiting job; leased jobs stay with their consumers. Errors as for `existing`."""
        found = await self.existing(queue)
        if isinstance(found.result, GatewayError):
            return Covered(found.result, found.coverage)
        return Covered(None, least(found.coverage, await self._backend.flush(queue.key)))

    async def delete(self, queue: Queue) -> Covered[int | GatewayError]:
        """Removes the queue with all its jobs; returns the number of leases that this ended. Errors as for `flush`."""
        found = await self.existing(queue)
        if isinstance(found.result, GatewayError):
            return Covered(found.result, found.coverage)
        coverage = least(found.coverage, await self._backend.delete(queue.key))
        self._known.forget(queue)
        return Covered(await self._lease_router.drop_queue(queue.key), coverage)

    def _head(self, queue: Queue, item: bytes | None) -> Job | QueueEmpty:
        if item is None:
            return QueueEmpty(f"no job waits on {queue.name!r}")
        job = raw(item) if queue.policy.raw else unwrap(item)
        if job.expires_s is not None and job.expires_s <= time.time():
            return QueueEmpty(f"the job at the head of {queue.name!r} has expired; the next poll drops it")
        return job._replace(attempt=self._attempts.of(queue.key, identity(job.id, item), job.attempt))


def _not_found(queue: Queue, coverage: Coverage) -> GatewayError:
    """A subscription that no server has may be on a server that does not answer: then BackendUnavailable."""
    if queue.is_child:
        return no_subscription(queue, coverage)
    return QueueNotFound(f"there is no queue {queue.name!r}, or it has only delayed jobs")


def listed_queue(
    catalog: Catalog, tenant: str, key: str, stats: QueueStats, letters: QueueStats | None
) -> QueueInfo | None:
    """The queue as it appears in the tenant's list; None if it is not the tenant's. letters: see `queue_info`."""
    name = catalog.name_of(tenant, key)
    if name is not None:
        return queue_info(name, stats, letters)
    return queue_info(key, stats, reachable=False) if catalog.unreachable_for(key) == tenant else None


def queue_info(
    queue: str, stats: QueueStats, letters: QueueStats | None = None, *, reachable: bool = True
) -> QueueInfo:
    """The statistics with the names of openapi.yaml. letters: the statistics of its dead letters, if it has any."""
    return QueueInfo(
        queue=queue,
        items=stats.items,
        bytes=stats.bytes,
        age_s=stats.age_ms / 1000,
        open_reads=stats.open_reads,
        backlog=stats.items + stats.open_reads,
        waiters=stats.waiters,
        total_items=stats.total_items,
        expired_items=stats.expired_items,
        discarded_items=stats.discarded,
        dead_letters=0 if letters is None else letters.items + letters.open_reads,
        reachable=reachable,
    )
