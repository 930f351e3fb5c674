"""A body of lines that is enqueued as it arrives, in parts: memory does not grow with the body. Knows no queue.

1. A part is what has arrived, up to its last complete line. While one is being stored, the next one arrives, and
   waits for it. So jobs keep their order, and at most two parts are in memory, each of about PART_BYTES.
2. The request ends early if no job of a part could be stored: the others would fail in the same way.
3. If the body ends early, however that happens, a part that is being stored is stored and counted. Nothing behind it
   is stored: no line that is incomplete, and no line that is in no part yet.
4. An answer that is not 204 says how many jobs are decided, from the first on, and how many of them are stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from gateway.api.exchange import Call
from gateway.common.counted import counted
from gateway.errors import GatewayError, JobTooLarge, PartlyRefused, PartlyStored

PART_BYTES: Final = 256 << 10
MOST_FAILURES: Final = 100
"""Of the failures that an answer lists; it says how many there are."""
StorePart: TypeAlias = Callable[[bytes], Awaitable[Sequence[GatewayError | None]]]
"""Stores the jobs of a part, and returns the outcome of each: None if it is stored."""


@dataclass(slots=True)
class LinesOutcome:
    """How far the request got. failures: the first MOST_FAILURES, by the place of the job, from 0."""

    jobs: int = 0
    stored: int = 0
    codes: set[str] = field(default_factory=set)
    retryable: GatewayError | None = None
    failures: dict[int, GatewayError] = field(default_factory=dict)

    def add(self, outcomes: Sequence[GatewayError | None]) -> None:
        """The outcomes of the next jobs."""
        for place, error in enumerate(outcomes, self.jobs):
            if error is None:
                self.stored += 1
                continue
            self.codes.add(error.code)
            if error.retryable and self.retryable is None:
                self.retryable = error
            if len(self.failures) < MOST_FAILURES:
                self.failures[place] = error
        self.jobs += len(outcomes)

    def error(self, *, operator: bool) -> GatewayError | None:
        """The failure of a body that was read to its end, or of which no job can be stored; None if all are stored."""
        if self.stored == self.jobs:
            return None
        first = self.retryable or next(iter(self.failures.values()))
        error = first
        if self.stored:
            detail = f"{self._stored()} stored. The first failure: {first.code}: {first.detail}"
            error = PartlyStored(detail) if first.retryable else PartlyRefused(detail)
        elif len(self.codes) > 1:
            error.detail = f"none of {counted(self.jobs, 'job')} was stored. The first failure: {first.detail}"
        return self._with_jobs(error, operator=operator)

    def cut_off(self, error: GatewayError, *, operator: bool) -> GatewayError:
        """The failure of a body that ended early. error: why.

        If jobs are stored, it is not retryable: the whole request would store them again.
        """
        if self.stored:
            first = "the first job is" if self.jobs == 1 else f"the first {counted(self.jobs, 'job is', 'jobs are')}"
            done = first if self.stored == self.jobs else self._stored(" of the first")
            error.detail = f"{error.detail}; {done} stored"
            error.retryable, error.retry_after_s = False, None
        else:
            error.detail = f"{error.detail}; no job is stored"
        return self._with_jobs(error, operator=operator)

    def _stored(self, of: str = " of") -> str:
        return f"{self.stored}{of} {counted(self.jobs, 'job')} {'was' if self.stored == 1 else 'were'}"

    def _with_jobs(self, error: GatewayError, *, operator: bool) -> GatewayError:
        error.counts = {"jobs_decided": self.jobs, "jobs_stored": self.stored}
        error.failures = [
            {"job": place, "status": each.status, "code": each.code, "detail": each.detail_for(operator=operator)}
            for place, each in self.failures.items()
        ]
        return error


async def enqueue_lines(call: Call, limit_bytes: int, store: StorePart) -> None:
    """Stores the jobs of the body. limit_bytes: of one line.

    Raises: the failure of the request, if not every job is stored; see LinesOutcome. ClientDisconnected.
    Cancelled: jobs that have arrived may be stored.
    """
    outcome = LinesOutcome()
    lines = _Lines(call, limit_bytes, store, outcome)
    operator = call.caller.sees_deployment
    call.request.streams_body = True
    try:
        await lines.run()
    except GatewayError as error:
        await lines.close()
        raise outcome.cut_off(error, operator=operator) from error
    finally:
        await lines.close()
        call.context.jobs_stored = outcome.stored
    failure = outcome.error(operator=operator)
    if failure is not None:
        raise failure


class _Lines:
    """The body, and the part of it that is being stored."""

    def __init__(self, call: Call, limit_bytes: int, store: StorePart, outcome: LinesOutcome) -> None:
        self._call = call
        self._limit_bytes = limit_bytes
        self._store = store
        self._outcome = outcome
        self._storing: asyncio.Task[bool] | None = None

    async def run(self) -> None:
        """Returns when every part is stored, or none of a part. Raises what the body and `store` raise."""
        call = self._call
        call.reservation.more(2 * PART_BYTES)
        arrived = bytearray()
        more = True
        while more:
            chunk, more = await call.request.body()
            arrived += chunk
            await call.reservation.turn(len(chunk))
            end = arrived.rfind(b"\n") + 1 if more else len(arrived)
            if not end and len(arrived) > self._limit_bytes:
                raise JobTooLarge(
                    f"line {self._outcome.jobs + 1} or a later one is above the maximum of "
                    f"{counted(self._limit_bytes, 'byte')}"
                )
            storing = self._storing
            if (
                storing is not None
                and (storing.done() or len(arrived) >= PART_BYTES or not more)
                and not await self._stored()
            ):
                return
            if self._storing is None and end:
                part = bytes(arrived[:end])
                del arrived[:end]
                self._storing = asyncio.create_task(self._store_part(part))
        await self._stored()

    async def close(self) -> None:
        """Returns when no part is being stored. A failure of that part counts as a failure of none of its jobs."""
        storing, self._storing = self._storing, None
        if storing is not None:
            await asyncio.wait((storing,))
            if not storing.cancelled():
                storing.exception()

    async def _stored(self) -> bool:
        """Returns when no part is being stored: whether the request goes on."""
        if self._storing is None:
            return True
        goes_on = await asyncio.shield(self._storing)
        self._storing = None
        return goes_on

    async def _store_part(self, part: bytes) -> bool:
        """Whether the request goes on after the part."""
        outcomes = await self._store(part)
        self._outcome.add(outcomes)
        return not outcomes or any(each is None or not each.retryable for each in outcomes)
