"""Keeps the lease of a job while the work is in progress, and settles it afterwards, however often that takes."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass
from typing import Any, Final

from gateway.client import failures
from gateway.client.failures import CallFailed
from gateway.work.control import WorkControl
from gateway.work.job import TakenJob
from gateway.work.source import JobSource
from gateway.work.verdict import Action, WorkVerdict

logger: Final = logging.getLogger(__name__)

_DEFECTS: Final = 500
"""From this status on, an answer does not say that the lease is gone. Source: clients/timeouts-and-retries.md."""


@dataclass(frozen=True, slots=True)
class FailureDelay:
    """How long a failed job rests: first_s after its first attempt, then twice as long each time, up to longest_s."""

    first_s: float
    longest_s: float

    def after(self, attempt: int) -> float:
        """The delay after that attempt, with up to a quarter less at random, so that jobs do not return together."""
        longest = min(self.longest_s, self.first_s * 2.0 ** min(attempt - 1, 32))
        return longest * random.uniform(0.75, 1.0)  # noqa: S311  (spreads the jobs; not a secret)


class JobLease:
    """One job that a slot works on. Its lease is extended after half of its time."""

    def __init__(self, source: JobSource, job: TakenJob, control: WorkControl) -> None:
        self._source = source
        self._job = job
        self._control = control
        self._ends_s = time.monotonic() + job.lease_s

    async def keep(self) -> None:
        """Extends the lease again and again. Returns only when it is lost. Cancelled: the lease stays as it is."""
        tries = 0
        while True:
            await asyncio.sleep(failures.pause_s(tries) if tries else self._job.lease_s / 2)
            try:
                self._ends_s = await self._source.extend(self._job)
                tries = 0
                logger.debug("%s: lease extended by %g s", self._job, self._job.lease_s)
            except CallFailed as failed:
                if not failed.retryable and failed.status < _DEFECTS:
                    logger.warning("%s: the lease is lost, so the job will be repeated: %s", self._job, failed)
                    return
                tries += 1
                logger.warning("%s: the lease is not extended, and the worker tries again: %s", self._job, failed)

    async def settle(self, verdict: WorkVerdict, delay: FailureDelay) -> None:
        """Settles the lease, again and again until the outcome is certain.

        While the worker finishes, it gives up at the end of the lease: the job is back on its queue then.
        """
        job = self._job
        how, body = _request(job, verdict, delay)
        tries = 0
        while True:
            try:
                position = await self._source.settle(job, how, body)
            except CallFailed as failed:
                if not self._goes_on(failed):
                    _log_lost(job, how, failed)
                    return
                tries += 1
                pause_s = failed.retry_after_s + failures.pause_s(tries)
                logger.warning("%s: %s not sent: %s; next try in %.1f s", job, how, failed, pause_s)
                await asyncio.sleep(pause_s)
            else:
                _log_settled(job, verdict, position, body)
                return

    def _goes_on(self, failed: CallFailed) -> bool:
        over = time.monotonic() > self._ends_s
        if failed.retryable:
            return not (over and self._control.finishing.is_set())
        return failed.status >= _DEFECTS and not over


def _request(job: TakenJob, verdict: WorkVerdict, delay: FailureDelay) -> tuple[str, dict[str, Any] | None]:
    """The settlement and its body."""
    reason = {"reason": verdict.reason} if verdict.reason else {}
    if verdict.action is Action.ACK:
        return "ack", None
    if verdict.action is Action.REJECT:
        return "reject", reason
    if verdict.action is Action.GIVE_BACK:
        return "nack", {**reason, "position": "head", "count": False}
    delay_s = delay.after(job.attempt) if verdict.delay_s is None else verdict.delay_s
    return "nack", {**reason, "delay": round(delay_s, 3)}


def _log_settled(job: TakenJob, verdict: WorkVerdict, position: str, body: dict[str, Any] | None) -> None:
    if verdict.action is Action.ACK:
        logger.debug("%s: acked", job)
    elif position == "dead":
        logger.warning("%s: now a dead letter, after attempt %d: %s", job, job.attempt, verdict.reason)
    elif verdict.action is Action.GIVE_BACK:
        logger.info("%s: given back: %s", job, verdict.reason)
    else:
        delay_s = (body or {}).get("delay", 0)
        logger.info("%s: attempt %d failed; next attempt in %.1f s: %s", job, job.attempt, delay_s, verdict.reason)


def _log_lost(job: TakenJob, how: str, failed: CallFailed) -> None:
    may = "may" if failed.code == "outcome-unknown" or failed.status == 0 else "will"
    logger.warning("%s: %s came too late, so the job %s be repeated: %s", job, how, may, failed)
