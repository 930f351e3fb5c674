"""The metrics of queues in Prometheus' text format, which OpenMetrics reads, too. Written in slices: see rule 2.

1. Every gateway shows the same queues, so rules and dashboards take `max by (queue, tenant)` and no sum.
2. A gateway with 10,000 queues shows the largest ones. One step writes one queue, and other work runs between steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from gateway.api.metrics.text import family
from gateway.delivery.figures.largest import AGE, FIGURES, QueueRow, QueueTable
from gateway.fairness.turns import Turns

PREFIX: Final = "kestrel_gateway_queue_"
OTHERS: Final = "_others"
"""The label of what belongs to several queues. No queue and no tenant can have this name."""

MEANINGS: Final = {
    "items": "jobs that wait; `_others` is the sum of the queues that have no series of their own",
    "bytes": "size of the waiting jobs",
    "age_seconds": "time that the oldest waiting job has waited, by the time in the job",
    "open_reads": "jobs that are under lease",
    "waiters": "gets that wait at Kestrel; any number of polls share one",
    "dead_letters": "dead letters that are stored with the queue",
    "backlog": "jobs that are not done: those that wait and those under lease",
    "delayed": "delayed jobs; Kestrel holds those of all queues together, so there is only the series `_others`",
}
TOTALS: Final = {
    "kestrel_gateway_queues": ("queues, by whether they have series of their own", ("series",)),
    "kestrel_gateway_queue_figures_timestamp_seconds": ("when the figures of queues were read, as Unix time", ()),
    "kestrel_gateway_queue_figures_servers": ("Kestrel servers, by whether their figures are included", ("state",)),
}
_ESCAPED: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


async def queue_text(table: QueueTable, turns: Turns, shows: Callable[[QueueRow], bool] | None = None) -> bytes:
    """The metrics. shows: of the rows only these, without sums; None: everything."""
    columns: list[list[str]] = [[] for _ in FIGURES]
    rows = table.rows if shows is None else [row for row in table.rows if shows(row)]
    async for tenant, queue, figures in turns.slices(rows):
        labels = f'{{queue="{queue.translate(_ESCAPED)}",tenant="{tenant}"}} '
        for column, figure in zip(columns, figures, strict=True):
            column.append(f"{labels}{figure:.15g}")
    if shows is None and table.others:
        labels = f'{{queue="{OTHERS}",tenant="{OTHERS}"}} '
        for at, (column, figure) in enumerate(zip(columns, table.sums, strict=True)):
            if at != AGE:
                column.append(f"{labels}{figure:.15g}")
    named = zip(FIGURES, columns, strict=True)
    parts = [family(PREFIX + name, MEANINGS[name], "gauge", lines) for name, lines in named]
    if shows is None:
        parts.extend(_totals(table))
    return "".join(parts).encode()


def _totals(table: QueueTable) -> Iterator[str]:
    delayed = [f'{{queue="{OTHERS}",tenant="{OTHERS}"}} {table.delayed}']
    yield family(PREFIX + "delayed", MEANINGS["delayed"], "gauge", delayed)
    values = (
        [f'{{series="own"}} {len(table.rows)}', f'{{series="none"}} {table.others}'],
        [f" {table.at_s:.3f}"],
        [f'{{state="included"}} {table.asked}', f'{{state="missing"}} {table.servers - table.asked}'],
    )
    for (name, (meaning, _)), lines in zip(TOTALS.items(), values, strict=True):
        yield family(name, meaning, "gauge", lines)
