"""Next from several queues: one poll, one job, one lease, from the first of the queues that has a job.

A paused queue counts as empty, and so does one whose limits (`max_in_flight`, `rate`) allow no job now. If that
changes while the poll waits, the poll starts again with the queues that are then open, for the rest of its time.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.coverage import Covered
from gateway.delivery.backend import Backend, OnGone, Poll
from gateway.delivery.caps.caps import Caps
from gateway.delivery.caps.counter import CapReason
from gateway.delivery.caps.places import CapPlaces
from gateway.delivery.expired_jobs import ExpiredJobs
from gateway.delivery.pause import Pauses
from gateway.delivery.poll_limits import HeldPoll, PollLimits
from gateway.delivery.queues.catalog import Queue
from gateway.delivery.queues.quota import Quota
from gateway.delivery.receive import PASSING_S, Delivery, Hold, NextOptions, Receiver
from gateway.errors import Draining, TooManyLeases
from gateway.leases.lease import OpenRead
from gateway.leases.limits import LeaseLimits


@dataclass(frozen=True, slots=True)
class PreferredDelivery:
    """A delivery, and the queue it comes from."""

    queue: Queue
    delivery: Delivery


class PreferredReceiver:
    """Takes jobs for consumers of several queues. receiver: leases what was taken. tasks: the lifespan's group."""

    def __init__(
        self,
        backend: Backend,
        receiver: Receiver,
        quota: Quota,
        limits: LeaseLimits,
        tasks: asyncio.TaskGroup,
        *,
        poll_limits: PollLimits,
        pauses: Pauses,
        caps: Caps,
    ) -> None:
        self._backend = backend
        self._receiver = receiver
        self._quota = quota
        self._limits = limits
        self._tasks = tasks
        self._poll_limits = poll_limits
        self._pauses = pauses
        self._caps = caps

    async def next(self, queues: Sequence[Queue], options: NextOptions) -> Covered[PreferredDelivery | Hold | None]:
        """The next job of the first of the tenant's queues that has one. A queue that is named twice counts once.

        Hold: every queue delivered nothing until the end. Raises, Cancelled: see Receiver.next.
        """
        until_s = time.monotonic() + options.timeout_s
        queues = list({queue.key: queue for queue in reversed(queues)}.values())[::-1]
        with contextlib.ExitStack() as usable:
            for queue in queues:
                usable.enter_context(await self._quota.room(queue))
            if self._receiver.draining:
                raise Draining("the gateway is shutting down and delivers no more jobs")
            async with CapPlaces(self._caps, queues, until_s) as places:
                return await self._next(queues, options, places, until_s)

    async def _next(
        self, queues: Sequence[Queue], options: NextOptions, places: CapPlaces, until_s: float
    ) -> Covered[PreferredDelivery | Hold | None]:
        """Like `next`, for queues that may be used. until_s: monotonic, the end of the wait."""
        passing_s = max(until_s, time.monotonic() + PASSING_S)
        by_key = {queue.key: queue for queue in queues}
        expired = ExpiredJobs(self._tasks)
        while True:
            (options.room or self._limits).check_room(queues[0].tenant)
            held = [queue for queue in queues if self._pauses.paused(queue) or not places.open(queue)]
            left_s = max(0.0, until_s - time.monotonic())
            gone = asyncio.Event()
            try:
                open_now = [each for each in queues if each not in held]
                since_s = time.time()
                taken = await self._take(open_now, held, places, left_s, options.on_gone, gone)
            except TooManyLeases:  # possibly because of jobs that are being dropped
                if not await expired.one_ended():
                    raise
                continue
            if taken.result is not None:
                queue = by_key[taken.result.key]
                lease_s = options.lease_s(queue)
                delivery = await self._receiver.deliver(
                    queue, taken.result, lease_s, expired, options.room, since_s=since_s
                )
                if delivery is not None:
                    lease = delivery.lease
                    places.leased(queue, lease)
                    if not options.at_most_once or await self._receiver.acked(lease.id, (lease,), options.on_gone):
                        return Covered(PreferredDelivery(queue, delivery), None)
            ended = gone.is_set() or self._receiver.draining
            now_s = time.monotonic()
            if taken.result is None and (ended or now_s >= until_s):
                if ended or len(held) < len(queues):
                    return Covered(None, taken.coverage)
                await places.answered()
                return Covered(self._hold(queues, places), None)
            if ended or now_s > passing_s:
                return Covered(None, None)

    def _hold(self, queues: Sequence[Queue], places: CapPlaces) -> Hold | None:
        """Why all queues delivered nothing: the reason of the first that is not paused, if there is one."""
        hold: Hold | None = Hold.PAUSED
        for queue in queues:
            if not self._pauses.paused(queue):
                reason = places.reason(queue)
                hold = None if reason in (None, CapReason.OTHERS) else Hold(reason.value)
                break
        if hold is not None:
            self._receiver.held[hold] += 1
        return hold

    async def _take(  # noqa: PLR0917 (one caller)
        self,
        queues: Sequence[Queue],
        held: Sequence[Queue],
        places: CapPlaces,
        timeout_s: float,
        on_gone: OnGone,
        gone: asyncio.Event,
    ) -> Covered[OpenRead | None]:
        """The next item of the queues, set aside. None: there was none, a queue was opened or paused, or the consumer
        is gone, which sets `gone`. held: the queues that count as empty.
        """
        for queue in (*queues, *held):
            self._poll_limits.check_room(queue)
        keys = [queue.key for queue in queues]
        poll = self._backend.wait_in_order(keys, timeout_s, queues[0].tenant) if keys else HeldPoll()

        def leave() -> None:
            gone.set()
            poll.cancel()

        with contextlib.ExitStack() as undo:
            undo.enter_context(
                self._poll_limits.several(poll, dict.fromkeys(queues, poll) | {queue: _beside(poll) for queue in held})
            )
            undo.callback(on_gone(leave))
            places.changed = poll.cancel
            resumes_s = min((self._resumes_s(queue) for queue in held), default=math.inf)
            if resumes_s < math.inf:
                undo.callback(asyncio.get_running_loop().call_later(resumes_s, poll.cancel).cancel)
            try:
                async with asyncio.timeout(None if keys else timeout_s):
                    read = await poll.result()
            except TimeoutError:
                return Covered(None, None)
            except TooManyLeases as full:  # the limit is per server, which cannot tell when a lease ends
                raise TooManyLeases(full.detail, self._limits.retry_after()) from full
            return Covered(read, poll.coverage if read is None else None)

    def _resumes_s(self, queue: Queue) -> float:
        """Seconds until the pause ends by itself."""
        pause = self._pauses.of(queue)
        if pause is None or pause.until_s is None or self._pauses.by_policy(queue):
            return math.inf
        return max(0.0, pause.until_s - time.time())


def _beside(poll: Poll) -> HeldPoll:
    """Waits for changes of a queue that counts as empty; then `poll`, which waits for other queues, begins again."""
    held = HeldPoll()
    held.on_woken(poll.cancel)
    return held
