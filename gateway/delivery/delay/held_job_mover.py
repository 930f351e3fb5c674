"""Moves one job onward from a holding queue: to its next holding queue, or to its own queue when it is due.

1. The job is stored on the next queue, and only then confirmed on the old one. After an interruption it may be on both.
2. A job that was opened too early is moved, too, and never given back, so that no item gets in front of an earlier one.
3. If its queue refuses the job, it is tried again after REFUSED_S; until then other jobs do not wait for it.
4. The policy that the queue has now decides, also about its key. A job that has expired is dropped, and so is one of a
   subscription that was deleted: a put would create it again, or would be for another subscription of that name.
5. An item that no gateway has written, or whose queue cannot exist here, is set aside and logged. It is never dropped.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Final

from gateway.common.limited_log import LimitedLog
from gateway.delivery.backend import Backend
from gateway.delivery.delay.held_job import HeldJob, unpacked
from gateway.delivery.delay.holding import HoldingQueues
from gateway.delivery.queues.catalog import Catalog
from gateway.delivery.queues.quota import Quota
from gateway.envelope.due import milliseconds
from gateway.envelope.times import wire_expiry
from gateway.errors import (
    BackendRefused,
    BackendUnavailable,
    GatewayError,
    InvalidName,
    JobTooLarge,
    LeaseLost,
    NotSupported,
    OutcomeUnknown,
    QueueDeleted,
    QueueFull,
    QueueNotFound,
    TooManyQueues,
)
from gateway.leases.lease import OpenRead
from gateway.names.namespace import FANOUT

log = logging.getLogger(__name__)

REFUSED_S: Final = 5.0
"""How long a job waits again if its queue is full or refuses it."""


@dataclass(slots=True)
class DelayStatistics:
    """arrived: jobs put on their own queue when due. hops: jobs put on a further holding queue. refused: jobs that wait
    again because their queue refused them. expired: jobs that were dropped. doubled: moves whose original may still be
    held, in addition to its copy. unreadable: items that were set aside.
    """

    arrived: int = 0
    hops: int = 0
    refused: int = 0
    expired: int = 0
    doubled: int = 0
    unreadable: int = 0


class HeldJobMover:
    """Moves held jobs onward. statistics: since the start."""

    def __init__(self, backend: Backend, catalog: Catalog, quota: Quota, holding: HoldingQueues) -> None:
        self._backend = backend
        self._catalog = catalog
        self._quota = quota
        self._holding = holding
        self._limited = LimitedLog()
        self.statistics = DelayStatistics()

    async def move(self, read: OpenRead) -> float:
        """Moves the opened item onward. Returns for how many seconds it could have left; negative: it was too early.

        Raises QueueFull, JobTooLarge, BackendUnavailable or OutcomeUnknown if no server has certainly stored it: it is
        back where it was.
        Cancelled: it is back, and may also have moved.
        """
        try:
            overdue_s = await self._copy(read.data)
        except GatewayError as exc:
            self.statistics.doubled += isinstance(exc, OutcomeUnknown)
            await read.abort()
            raise
        except BaseException:
            read.give_back()
            raise
        try:
            await read.confirm()
        except QueueDeleted:
            pass  # it is gone with the holding queue
        except (LeaseLost, BackendRefused, OutcomeUnknown):
            self.statistics.doubled += 1
        return overdue_s

    async def _copy(self, item: bytes) -> float:
        job = unpacked(item)
        if job is None:
            return await self._set_aside(item, "no gateway has written it")
        now_s = self._holding.clock.wall_s()
        if job.due_ms > now_s * 1000:
            await self._holding.hold(job)
            self.statistics.hops += 1
            return now_s - job.until_ms / 1000
        if job.expires_s is not None and job.expires_s <= now_s:
            self.statistics.expired += 1
            return now_s - job.until_ms / 1000
        try:
            await self._arrive(job, now_s)
        except InvalidName as exc:
            return await self._set_aside(item, exc.detail)
        except (QueueFull, JobTooLarge, NotSupported, TooManyQueues) as exc:
            await self._refused(job, now_s, exc)
        except BackendUnavailable as exc:
            if FANOUT not in job.queue:
                raise
            await self._refused(job, now_s, exc)  # perhaps only this subscription cannot be found now
        return now_s - job.until_ms / 1000

    async def _refused(self, job: HeldJob, now_s: float, why: GatewayError) -> None:
        self.statistics.refused += 1
        if (more := self._limited.count("refused")) is not None:
            log.warning("a delayed job waits for %g s more: %s%s", REFUSED_S, why.detail_for(operator=True), more)
        await self._holding.hold(replace(job, due_ms=milliseconds(now_s + REFUSED_S)))

    async def _arrive(self, job: HeldJob, now_s: float) -> None:
        queue = self._catalog.queue(job.tenant, job.queue)
        if job.generation is not None and job.generation < (await self._holding.generation(queue.key) or 0):
            self.statistics.expired += 1
            return
        try:
            room = await self._quota.room(queue)
        except QueueNotFound:  # raised only if every server has answered
            self.statistics.expired += 1
            return
        with room:
            await self._backend.put(
                queue.key, job.data, wire_expiry(job.expires_s, now_s), duplicates_ok=queue.policy.duplicates_ok
            )
        self.statistics.arrived += 1

    async def _set_aside(self, item: bytes, why: str) -> float:
        self.statistics.unreadable += 1
        if (more := self._limited.count("unreadable")) is not None:
            log.error("an item of a holding queue is moved to %s: %s%s", self._holding.unreadable_key, why, more)
        await self._holding.set_aside(item)
        return 0.0
