"""A batch that takes more jobs: which of those that are ready it may have, with which others.

1. A batch has no job that is expired or has had too many attempts. Such an item is settled as soon as its connection
   allows that.
2. A batch that is lost counts an attempt for each of its jobs. So that a job which kills its consumers does not use up
   the attempts of others, a job that was delivered before comes in smaller batches, and its last attempt is alone: no
   job becomes a dead letter because of another one.
3. If a server does not keep the order of items that go back together, two kinds of queues give one job at a time: those
   whose policy has `retry = "head"`, and those with jobs that have a partition key.
4. Whether a queue has such jobs is known only when a batch brings one, or this worker has enqueued one. A batch that
   brings the first one takes no more, and has what was taken together with that job.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Final

from gateway.config.policies import Retry
from gateway.delivery.attempts import identity
from gateway.delivery.caps.caps import CapPlace
from gateway.delivery.dead_letters.store import Stored
from gateway.delivery.expired_jobs import drop_expired
from gateway.delivery.moves import Moves, job_of
from gateway.delivery.ordered_queues import OrderedQueues
from gateway.delivery.queues.catalog import Queue
from gateway.envelope.read import Job
from gateway.errors import BackendRefused, LeaseLost, OutcomeUnknown, QueueDeleted, TooManyLeases
from gateway.leases.batch import BatchLease
from gateway.leases.lease import OpenRead
from gateway.leases.registry import Registry

log = logging.getLogger(__name__)

SMALLER_BITS: Final = 2
"""With each attempt of a job the batches in which it comes are smaller: a quarter."""


@dataclass(frozen=True, slots=True)
class BatchSize:
    """The most that a consumer wants: jobs, and bytes of their items together, unless it is one."""

    jobs: int
    limit_bytes: int


class FillingBatch:
    """See the rules above. full: it takes no further job. read: the item of its first job. ordered: see rule 4."""

    def __init__(  # noqa: PLR0917 (one caller)
        self,
        registry: Registry,
        moves: Moves,
        tasks: asyncio.TaskGroup,
        queue: Queue,
        batch: BatchLease,
        jobs: list[Job],
        size: BatchSize,
        lease_s: float,
        ordered: OrderedQueues,
    ) -> None:
        self.jobs = jobs
        self.full = False
        self.read = batch.leases[0].read
        self.left_bytes = size.limit_bytes - (len(self.read.data) if self.read is not None else 0)
        self._registry = registry
        self._moves = moves
        self._tasks = tasks
        self._queue = queue
        self._batch = batch
        self._jobs = size.jobs
        self._lease_s = lease_s
        self._last_attempt = moves.max_attempts(queue)
        self._most = self._most_with(batch.leases[0].attempt)
        self._ordered = ordered
        if jobs[0].ordered:
            ordered.add(queue.key)
        in_order = queue.policy.retry is Retry.HEAD or queue.key in ordered
        if in_order and self.read is not None and not self.read.keeps_order:
            self._most = 1

    @property
    def room(self) -> int:
        """How many more jobs it may have."""
        if self.full or self.left_bytes <= 0:
            return 0
        return max(0, min(self._most - len(self.jobs), self._registry.limits.room(self._queue.tenant)))

    def add(self, read: OpenRead, places: list[CapPlace] | None) -> bool:
        """Adds the item, or settles it without its consumer (rule 1). False: the batch has no room for it."""
        queue, moves = self._queue, self._moves
        job = job_of(queue, read)
        if job.ordered:
            self._ordered.add(queue.key)
            self.full = self.full or not read.keeps_order
        if job.expires_s is not None and job.expires_s <= time.time():
            self._tasks.create_task(drop_expired(read))
            return True
        known_by = identity(job.id, read.data)
        attempt = moves.attempts.of(queue.key, known_by, job.attempt)
        if attempt > self._last_attempt:
            self._tasks.create_task(self._to_dead_letters(read, known_by, attempt - 1))
            return True
        most = min(self._most, self._most_with(attempt))
        if len(self.jobs) >= most or len(read.data) > self.left_bytes or not self._batch.open:
            return False
        try:
            lease = self._registry.open(
                read,
                moves.mover(queue),
                id_=f"{self._batch.id}.{len(self.jobs)}",
                tenant=queue.tenant,
                queue=queue.name,
                key=queue.key,
                job_id=job.id,
                known_by=known_by,
                attempt=attempt,
                length_s=self._lease_s,
            )
        except TooManyLeases:
            return False
        self._most = most
        self.left_bytes -= len(read.data)
        self._registry.batches.add(self._batch, lease)
        self.jobs.append(job)
        if places:
            places.pop().leased(lease)
        return True

    def _most_with(self, attempt: int) -> int:
        """How many jobs a batch may have with a job whose attempt this is (rule 2)."""
        if attempt >= self._last_attempt:
            return 1
        return max(1, self._jobs >> SMALLER_BITS * (attempt - 1))

    async def _to_dead_letters(self, read: OpenRead, known_by: str, attempts: int) -> None:
        """The item is a dead letter, or back on its queue."""
        queue, moves = self._queue, self._moves
        try:
            await read.turn()
            stored = await moves.instead_of_delivery(queue, read, attempts)
            if stored is Stored.YES:
                moves.attempts.forget(queue.key, known_by)
        except (LeaseLost, QueueDeleted, BackendRefused, OutcomeUnknown):
            pass
        except Exception:
            log.exception("moving a job to the dead letters failed")
        finally:
            read.give_back()
