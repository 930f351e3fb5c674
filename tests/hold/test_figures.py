"""The figures of 10,000 queues: no step on the way from a reading to a scrape holds the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import orjson

from gateway.api.handlers.page_data import FigureRows
from gateway.api.metrics.queue_text import queue_text
from gateway.delivery.dead_letters.store import dead_key
from gateway.delivery.figures.gatherer import Round
from gateway.delivery.figures.history import History
from gateway.delivery.figures.largest import FIGURES, LargestQueues, QueueTable
from gateway.delivery.queues.catalog import Catalog
from gateway.fairness.turns import Turns
from gateway.names.namespace import Namespace
from gateway.queue_stats import QueueStats
from gateway.settings import Settings
from tests.hold.worker import MeasuredLoop, reference_s

QUEUES, ROWS = 10_000, 2000
TRIES = 12
LINE_BYTES = 160
"""The most of a series of a queue: its name of 64 characters, 40 of the metric, and the rest."""


def round_of(number: int) -> Round:
    """A reading of the queues, each of which has got a job since the one before."""
    names = (f"{place:05d}-{'q' * 58}" for place in range(QUEUES))
    stats = {
        name: QueueStats(items=place, bytes=place * 100, total_items=place + number) for place, name in enumerate(names)
    }
    return Round(number, time.time() + 60 * number, stats, {"s": stats})


def test_no_step_holds_the_loop() -> None:
    """The history, the table of the largest queues, its way from the worker that has it, the text of a scrape, and a
    filter of the page that no queue matches.

    With the largest number of queues that may have series, and names as long as they may be. The shortest of some
    tries counts: other processes only ever add to the time."""
    Settings(max_queue_metrics=ROWS)  # it is allowed
    loop, turns, catalog = MeasuredLoop(), Turns(), Catalog(Namespace())
    history = History(lambda key: dead_key(catalog, key), turns)
    largest = LargestQueues(catalog, turns, holding_keys=(), servers=lambda: 1, limit=ROWS)
    rows = FigureRows(catalog, history, cast("Any", None), cast("Any", None))  # a filter asks only for names
    numbers = iter(range(1, 1000))
    text = b""

    async def held_s(step: Callable[[], Awaitable[object]]) -> float:
        for _ in range(2):
            await asyncio.sleep(0)
        loop.longest_s = 0.0
        await step()
        await asyncio.sleep(0)
        return loop.longest_s

    async def show() -> None:
        nonlocal text
        text = await queue_text(QueueTable.of(orjson.loads(orjson.dumps(largest.table))), turns)

    async def run() -> None:
        found = round_of(next(numbers))
        steps: dict[str, Callable[[], Awaitable[object]]] = {
            "history": lambda: history.add(found),
            "table": lambda: largest.add(found),
            "text": show,
            "filter": lambda: turns.all(rows.of("", found, lambda _: False)),
        }
        for name, step in steps.items():
            tries = []
            for _ in range(TRIES):
                tries.append((await held_s(step), reference_s()))
                if tries[-1][0] < tries[-1][1]:
                    break
                found = round_of(next(numbers))
            told = ", ".join(f"{held * 1000:.1f} ms where 20 ms are {limit * 1000:.1f}" for held, limit in tries)
            assert tries[-1][0] < tries[-1][1], f"{name}: the loop was held for {told}"

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(run())
    assert text.count(b"\n") < len(FIGURES) * (ROWS + 1) + 40
    assert len(text) < len(FIGURES) * (ROWS + 1) * LINE_BYTES
