"""The last hour of every queue, in samples STEP_S apart: rounds of the gatherer go in, series come out.

A rate is the mean between two samples. Jobs that come in are those that were stored, which includes jobs that move to
the tail or come back from the dead letters. Jobs that go out are those that are gone since then, whatever the reason.

A sample is computed in slices. It is added to all series at once, so that they have equal times.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.delivery.figures.gatherer import Round
from gateway.fairness.turns import Turns
from gateway.queue_stats import QueueStats

STEP_S: Final = 10.0
SAMPLES: Final = 360
MAX_QUEUES: Final = 2000
"""Each takes 9 KB. Queues that come later have no history until another one is gone."""

COLUMNS: Final = ("items", "open_reads", "age_s", "in_rate", "out_rate", "dead_letters")
_MISSING: Final = (float("nan"),) * len(COLUMNS)


@dataclass(frozen=True, slots=True)
class Rates:
    """Jobs a second. None: there is nothing to compare with, as after a restart of a server."""

    incoming: float | None = None
    outgoing: float | None = None


def rates(before: QueueStats | None, now: QueueStats, seconds: float) -> Rates:
    """The rates between two statistics of a queue. before: None if the queue did not exist."""
    before = before or QueueStats()
    stored = now.total_items - before.total_items
    gone = stored - (now.items + now.open_reads - before.items - before.open_reads)
    return Rates(stored / seconds, max(0, gone) / seconds) if seconds > 0 and stored >= 0 else Rates()


class History:
    """Give it each round (`add`). dead_key: gives the key of a queue's dead letters; None for a key of no queue."""

    def __init__(self, dead_key: Callable[[str], str | None], turns: Turns) -> None:
        self._dead_key = dead_key
        self._turns = turns
        self._times: deque[float] = deque(maxlen=SAMPLES)
        self._samples: dict[str, array[float]] = {}
        self._sampled = Round()
        self._last: tuple[Round, Round] = (Round(), Round())

    async def add(self, new: Round) -> None:
        """Remembers the round, and takes a sample if it is time for one. Cancelled: there is no sample."""
        self._last = (self._last[1], new)
        if self._times and new.at_s - self._times[-1] < STEP_S * 0.9:
            return
        taken = {key: _MISSING for key in self._samples if new.coverage or key in new.queues}
        async for key in self._turns.slices(new.queues):
            if key in taken or (len(taken) < MAX_QUEUES and self._dead_key(key) is not None):
                taken[key] = self._sample(key, new)
        self._times.append(new.at_s)
        self._samples = {key: self._samples.get(key) or array("f") for key in taken}
        for key, sample in taken.items():
            samples = self._samples[key]
            samples.extend(sample)
            del samples[: -SAMPLES * len(COLUMNS)]
        self._sampled = new

    def rates(self, key: str, server: str | None = None) -> Rates:
        """The rates between the last two rounds. server: None for all servers together."""
        before, now = self._last
        stats = _of(now, server).get(key)
        if stats is None or not before.number or (server is not None and server not in before.servers):
            return Rates()
        return rates(_of(before, server).get(key), stats, now.at_s - before.at_s)

    def columns(self, key: str) -> Mapping[str, Sequence[float | None]]:
        """The series of a queue by name, and `at`: their times (Unix). Empty series if it has no history."""
        samples = self._samples.get(key, array("f"))
        width = len(COLUMNS)
        count = len(samples) // width
        shown = {name: [_number(each) for each in samples[at::width]] for at, name in enumerate(COLUMNS)}
        return {"at": list(self._times)[len(self._times) - count :], **shown}

    def recent(self, key: str, count: int) -> list[tuple[float | None, float | None]]:
        """The last `count` pairs of rates, in and out; empty if no job came or went."""
        samples = self._samples.get(key, array("f"))
        width, first = len(COLUMNS), COLUMNS.index("in_rate")
        tail = samples[-count * width :]
        pairs = [(_number(tail[at + first]), _number(tail[at + first + 1])) for at in range(0, len(tail), width)]
        return pairs if any(one or other for one, other in pairs) else []

    def _sample(self, key: str, new: Round) -> tuple[float, ...]:
        stats, before = new.queues[key], self._sampled
        found = rates(before.queues.get(key), stats, new.at_s - before.at_s) if before.number else Rates()
        dead = new.queues.get(self._dead_key(key) or "", QueueStats()).items
        nan = float("nan")
        incoming = nan if found.incoming is None else found.incoming
        outgoing = nan if found.outgoing is None else found.outgoing
        return (stats.items, stats.open_reads, stats.age_ms / 1000, incoming, outgoing, dead)


def _of(found: Round, server: str | None) -> Mapping[str, QueueStats]:
    return found.queues if server is None else found.servers.get(server, {})


def _number(value: float) -> float | None:
    return None if value != value else round(value, 3)  # noqa: PLR0124 (only NaN differs from itself)
