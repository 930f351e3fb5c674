"""A body of lines that is enqueued as it arrives, in parts: memory does not grow with the body. Knows no queue.

1. A part is what has arrived, up to its last complete line. While one is being stored, the next one arrives, and
   waits for it. So jobs keep their order, and at most two parts are in memory, each of about PART_BYTES.
2. The request ends early if no job of a part could be stored: the others would fail alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from gateway.api.exchange import Call
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
        """The failure of the request, with those of its jobs; None if all are stored."""
        if self.stored == self.jobs:
            return None
        first = self.retryable or next(iter(self.failures.values()))
        error = first
        if self.stored:
            were = "was" if self.stored == 1 else "were"
            detail = f"{self.stored} of {self.jobs} jobs {were} stored. The first failure: {first.code}: {first.detail}"
            error = PartlyStored(detail) if first.retryable else PartlyRefused(detail)
        elif len(self.codes) > 1:
            error.detail = f"none of {self.jobs} jobs was stored. The first failure: {first.detail}"
        error.failures = [
            {"job": place, "status": each.status, "code": each.code, "detail": each.detail_for(operator=operator)}
            for place, each in self.failures.items()
        ]
        return error


async def enqueue_lines(call: Call, limit_bytes: int, store: StorePart) -> LinesOutcome:
    """Stores the jobs of the body. limit_bytes: of one line.

    Raises: JobTooLarge: a line is longer; what the body and `store` raise. The detail says how many jobs are stored.
    Cancelled: jobs that have arrived may be stored.
    """
    outcome = LinesOutcome()
    storing: asyncio.Task[bool] | None = None
    arrived = bytearray()
    call.reservation.more(2 * PART_BYTES)
    try:
        more = True
        while more:
            chunk, more = await call.request.body()
            arrived += chunk
            await call.reservation.turn(len(chunk))
            end = arrived.rfind(b"\n") + 1 if more else len(arrived)
            if not end and len(arrived) > limit_bytes:
                raise JobTooLarge(f"line {outcome.jobs + 1} or a later one is above the maximum of {limit_bytes} bytes")
            if storing is not None and (storing.done() or len(arrived) >= PART_BYTES or not more):
                failed, storing = not await storing, None
                if failed:
                    break
            if storing is None and end:
                part = bytes(arrived[:end])
                del arrived[:end]
                storing = asyncio.create_task(_store(part, store, outcome))
        if storing is not None:
            last, storing = storing, None
            await last
    except GatewayError as error:
        await _ended(storing)
        if outcome.stored:
            error.detail = f"{error.detail}; the first {outcome.stored} jobs are stored"
        raise
    except BaseException:
        await _ended(storing)
        raise
    return outcome


async def _store(part: bytes, store: StorePart, outcome: LinesOutcome) -> bool:
    """Whether the request goes on after the part."""
    outcomes = await store(part)
    outcome.add(outcomes)
    return not outcomes or any(each is None or not each.retryable for each in outcomes)


async def _ended(storing: asyncio.Task[bool] | None) -> None:
    """A part that is being stored is counted in the answer."""
    if storing is not None:
        await asyncio.wait((storing,))
        if not storing.cancelled():
            storing.exception()
