"""The worker: some slots, each of which takes a job, lets the runner work on it, and settles it.

1. A slot has at most one job or one batch, and asks for the next only after the last one is settled. So whatever
   is killed, each slot repeats at most one job or batch. For this reason it does not ack with `next?ack=`: while such a
   call has no answer, a slot may have two jobs.
2. No job is taken while it cannot be worked on: the runner is asked first, and pauses grow while something is
   unreachable.
3. A poll that ends early without a job counts as a failure, so that slots never poll in a busy loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final, Protocol

from gateway.client.failures import CallFailed
from gateway.client.options import AWAY
from gateway.common.counted import counted
from gateway.work.backoff import Backoff
from gateway.work.control import WorkControl
from gateway.work.job import TakenJob
from gateway.work.job_lease import FailureDelay, JobLease
from gateway.work.source import JobSource
from gateway.work.verdict import Action, WorkVerdict

logger: Final = logging.getLogger(__name__)

REFUSED: Final = 4
"""The exit code if the gateway refuses the first poll: a wrong key, queue or setting. Later ones are repeated."""

_LAST_POLL_S: Final = 0.5
"""How long a poll goes on when the worker stops or pauses: an answer that nobody reads leaves its jobs leased. It is
much longer than an answer is under way, and much shorter than the 10 s that supervisors wait before they kill."""
_ANSWER_S: Final = 5.0
"""How long after --max-time, when the last poll ends, a gateway may take to answer it, also on a busy machine."""
_SHORTEST_POLL_S: Final = 0.1
"""A poll just before the end of --max-time, so that there is no busy loop."""
_TOO_LATE: Final = WorkVerdict(Action.GIVE_BACK, "the job came after the worker had stopped taking jobs")


class Runner(Protocol):
    """Does the work of jobs."""

    async def obstacle(self) -> WorkVerdict | None:
        """Why no job can be worked on now; None if one can."""

    async def run(self, job: TakenJob, giving_back: asyncio.Event) -> WorkVerdict:
        """Works on the job. When the event is set, it ends the work soon and says GIVE_BACK. Cancelled: it is ended."""

    async def close(self) -> None:
        """The worker ends, and no work is in progress."""


class Worker:
    """wait_s: the length of a poll. concurrency: the number of slots. batch: the most jobs of a slot at a time."""

    def __init__(
        self,
        source: JobSource,
        runner: Runner,
        control: WorkControl,
        *,
        wait_s: float,
        concurrency: int,
        batch: int,
        delay: FailureDelay,
    ) -> None:
        self._source = source
        self._runner = runner
        self._control = control
        self._wait_s = wait_s
        self._concurrency = concurrency
        self._batch = batch
        self._delay = delay
        self._gateway = Backoff(control)
        self._work = Backoff(control)
        self._has_polled = False

    async def run(self) -> int:
        """Works until it is stopped or a limit is reached. Returns the exit code."""
        async with asyncio.TaskGroup() as slots:
            for _ in range(self._concurrency):
                slots.create_task(self._slot())
        trouble = self._gateway.trouble or self._work.trouble
        if trouble and self._control.time_is_up and not self._control.exit_code:
            logger.error("exit code %d at the end of --max-time: %s", AWAY, trouble)
            return AWAY
        return self._control.exit_code

    async def _slot(self) -> None:
        while await self._control.ready():
            await self._gateway.wait()
            await self._work.wait()
            if not self._control.may_take or await self._is_obstructed():
                continue
            if not (most := self._control.reserve(self._batch)):
                return
            job = await self._take(most)
            self._control.release(most - (job.jobs if job is not None else 0))
            if job is None:
                continue
            await self._handle(job)
            self._control.job_is_done()

    async def _is_obstructed(self) -> bool:
        obstacle = await self._runner.obstacle()
        if obstacle is None:
            return False
        self._obey(obstacle)
        return True

    def _obey(self, verdict: WorkVerdict) -> None:
        """What a verdict means for the jobs to come."""
        if verdict.stop is not None:
            logger.error("%s", verdict.reason)
            self._control.finish(f"exit code {verdict.stop}", verdict.stop)
        elif verdict.unavailable:
            self._work.failed(verdict.reason, verdict.pause_s)
        else:
            self._work.succeeded()

    async def _take(self, most: int) -> TakenJob | None:
        """A job, or a batch of up to `most`.

        None if none came, if the gateway is unreachable, or if the worker stops or pauses and no answer is under way.
        The last poll ends with --max-time; a gateway that does not answer then counts as unreachable.
        """
        began_s = time.monotonic()
        source, wait_s = self._source, min(self._wait_s, max(self._control.left_s, _SHORTEST_POLL_S))
        poll = asyncio.ensure_future(source.take_batch(wait_s, most) if self._batch > 1 else source.take(wait_s))
        change = asyncio.ensure_future(self._control.changed())
        try:
            await asyncio.wait({poll, change}, return_when=asyncio.FIRST_COMPLETED)
            if change.done():
                await asyncio.wait({poll}, timeout=_ANSWER_S if self._control.time_is_up else _LAST_POLL_S)
        finally:
            change.cancel()
            poll.cancel()
        await asyncio.wait({poll})
        if poll.cancelled():
            if self._control.time_is_up:
                self._gateway.trouble = "the gateway did not answer the last poll"
            return None
        try:
            job = poll.result()
        except CallFailed as failed:
            self._poll_failed(failed)
            return None
        self._has_polled = True
        if job is None and time.monotonic() - began_s < wait_s / 2:
            self._gateway.failed("the gateway ended a poll early, without a job")
        else:
            self._gateway.succeeded()
        return job

    def _poll_failed(self, failed: CallFailed) -> None:
        if failed.retryable or failed.status >= 500 or self._has_polled:
            self._gateway.failed(str(failed), failed.retry_after_s)
        else:
            logger.error("the gateway refused the first poll: %s", failed)
            self._control.finish(f"exit code {REFUSED}", REFUSED)

    async def _handle(self, job: TakenJob) -> None:
        logger.debug("%s: taken from %s, attempt %d, %s", job, job.queue, job.attempt, counted(len(job.body), "byte"))
        hold = JobLease(self._source, job, self._control)
        if not self._control.may_take:
            await hold.settle(_TOO_LATE, self._delay)
            return
        keeping = asyncio.ensure_future(hold.keep())
        try:
            verdict = await self._runner.run(job, self._control.giving_back)
        except Exception as exc:
            logger.exception("%s: the worker failed", job)
            verdict = WorkVerdict(Action.NACK, f"the worker failed: {exc}", unavailable=True)
        finally:
            keeping.cancel()
        self._obey(verdict)
        if verdict.action is Action.LEAVE:
            logger.debug("%s: %s", job, verdict.reason)
        else:
            await hold.settle(verdict, self._delay)
