"""`/metrics`: every worker's figures in Prometheus' text format, or in that of OpenMetrics.

Owns the names, labels and meanings of the metrics.

1. Each worker has its own series (label `worker`). A counter falls only when its worker was restarted. Prometheus
   recognizes such a reset in a single series, but not in a sum.
2. One scrape asks all workers. A worker that does not answer in time is missing, which `kestrel_gateway_workers` shows.
3. The number of label values does not grow with use: no label holds a lease or a job, and the number of queues with
   series of their own has a limit (queue_text.py).
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics import exposition as open_metrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

import gateway
from gateway.api.access.caller import Caller
from gateway.api.exchange import NO_STORE, Answer, Call
from gateway.api.metrics.broker_text import BrokerText
from gateway.api.metrics.meter import REQUEST_S
from gateway.api.metrics.queue_text import queue_text
from gateway.api.request.accept import ranges
from gateway.delivery.figures.largest import QueueRow, QueueTable
from gateway.delivery.job_times import LONG_S, SHORT_S
from gateway.fairness.turns import Turns
from gateway.forwarding.commands import WorkerFigures

PREFIX: Final = "kestrel_gateway_"
END: Final = b"# EOF\n"
CONTENT_TYPE: Final = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
OPENMETRICS: Final = (b"content-type", b"application/openmetrics-text; version=1.0.0; charset=utf-8")
WITHIN_S: Final = 1.0
"""Time limit for the other workers' answers; Prometheus itself gives up after 10 s."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of a worker: a count since its start if the name ends in `_total`, otherwise the current value, or a
    histogram if it has buckets.

    name: without PREFIX, except for the standard `process_` metrics. labels: in addition to `worker`. bounds_s: of the
    buckets.
    """

    name: str
    meaning: str
    labels: tuple[str, ...] = ()
    bounds_s: tuple[float, ...] = ()

    @property
    def full_name(self) -> str:
        return self.name if self.name.startswith("process_") else PREFIX + self.name

    def family(self) -> Family:
        labels = ("worker", *self.labels)
        if self.bounds_s:
            return HistogramMetricFamily(self.full_name, self.meaning, labels=labels)
        kind = CounterMetricFamily if self.name.endswith("_total") else GaugeMetricFamily
        return kind(self.full_name, self.meaning, labels=labels)


METRICS: Final = (
    Metric("leases_delivered_total", "leases opened since the start: those that have ended and those that are open"),
    Metric("leases_settled_total", "leases that have ended, by outcome", ("outcome",)),
    Metric("leases_open", "leases that have not ended"),
    Metric("leases_delayed", "open leases that are nacked with a delay, and whose job stays set aside until it is due"),
    Metric("leases_remembered", "ended leases that are still remembered"),
    Metric(
        "forwards_total",
        "commands about leases sent to another worker or replica, or received from one",
        ("peer", "direction"),
    ),
    Metric("forward_failures_total", "commands that the owner of the lease did not answer", ("reason",)),
    Metric("polls_parked", "polls that wait for a job"),
    Metric("streams_open", "streams that have not ended"),
    Metric("polls_held_total", "polls that got no job because of a pause or a limit of their queues", ("reason",)),
    Metric("queues_paused", "queues that requests have paused, as far as the worker knows"),
    Metric("draining", "1 while the worker drains and delivers no more jobs"),
    Metric("jobs_enqueued_total", "jobs stored for producers"),
    Metric(
        "jobs_moved_total",
        "jobs copied to the tail of their queue, to a holding queue, or to the dead letters",
        ("to",),
    ),
    Metric("jobs_kept_at_head_total", "jobs that stayed at the head because a copy was not safe"),
    Metric("jobs_doubled_total", "moves whose original may still be on its queue, in addition to its copy"),
    Metric("delayed_jobs_enqueued_total", "jobs stored for producers with a delay"),
    Metric(
        "delayed_jobs_moved_total",
        "delayed jobs put on a further holding queue, or on their own queue when due",
        ("to",),
    ),
    Metric("delayed_jobs_refused_total", "due jobs that wait again because their queue refused them"),
    Metric(
        "delayed_jobs_expired_total", "delayed jobs that were dropped: expired, or of a subscription that was deleted"
    ),
    Metric(
        "delayed_jobs_doubled_total", "moves of delayed jobs whose original may still be held, in addition to its copy"
    ),
    Metric(
        "delayed_jobs_unreadable_total",
        "items on holding queues that no gateway wrote; they were moved to a queue of their own",
    ),
    Metric(
        "delayed_jobs_dropped",
        "delayed jobs that the server has dropped because of a limit in its configuration; must stay 0",
        ("server",),
    ),
    Metric(
        "http_requests_total",
        "requests, by the class of the answer's status; `none`: no answer, because the client had disconnected",
        ("status",),
    ),
    Metric("http_problems_total", "answers that are problems, by their code", ("code",)),
    Metric(
        "http_request_duration_seconds",
        "time from the head of a request to the end of its answer, with the wait; `none`: unknown path, or no answer",
        ("route", "status"),
        REQUEST_S,
    ),
    Metric(
        "job_wait_seconds",
        "time that a job waits for its first delivery: since its enqueue, or since it was due",
        (),
        LONG_S,
    ),
    Metric(
        "job_wakeup_seconds",
        "time that a job waits for its first delivery, for jobs that were stored while a poll already waited for them",
        (),
        SHORT_S,
    ),
    Metric("lease_hold_seconds", "time from a delivery to the end of its lease, by outcome", ("outcome",), LONG_S),
    Metric("http_requests_in_flight", "requests in progress, including waiting polls"),
    Metric("kestrel_server_status", "1 for the status in which the worker sees the server", ("server", "status")),
    Metric("kestrel_server_full", "1 while a tenant has reached its limit of leases on the server", ("server",)),
    Metric(
        "kestrel_connections",
        "connections to the server; each pinned one belongs to a lease",
        ("server", "state"),
    ),
    Metric("kestrel_connects_total", "connections to Kestrel opened"),
    Metric("kestrel_connect_failures_total", "connections to Kestrel that could not be opened"),
    Metric("kestrel_commands_total", "commands sent to Kestrel"),
    Metric("kestrel_command_failures_total", "commands without a complete and valid answer, including cancelled ones"),
    Metric("kestrel_pings_total", "pings on idle connections"),
    Metric("kestrel_waits_armed_total", "blocked gets sent for waiting polls"),
    Metric("kestrel_waits_cut_total", "gets for waiting polls that failed: Kestrel refused, or did not answer"),
    Metric("kestrel_waits", "blocked gets in progress"),
    Metric("kestrel_waited_queues", "queues with waiting polls"),
    Metric(
        "items_taken_total",
        "items received under open reads: for polls, and for the gateway's own work, such as moves of delayed jobs",
    ),
    Metric("items_given_back_unserved_total", "items that arrived when no poll waited any more, and were given back"),
    Metric("items_lost_total", "open reads whose connection ended: the items are back on their queues"),
    Metric("share_limit", "limit of the resource for all tenants together", ("resource",)),
    Metric(
        "share_held",
        "how much of the resource is in use; `buffer_bytes` counts heads, bodies and answers",
        ("resource",),
    ),
    Metric("share_largest", "how much of the resource the largest tenant holds", ("resource",)),
    Metric("share_refused_total", "requests refused because their tenant had reached its share", ("resource",)),
    Metric("process_cpu_seconds_total", "CPU time, user and system"),
    Metric("process_resident_memory_bytes", "resident memory"),
    Metric("process_virtual_memory_bytes", "virtual memory"),
    Metric("process_start_time_seconds", "when the worker was started, as Unix time"),
    Metric("process_open_fds", "open descriptors"),
    Metric("process_max_fds", "descriptors that may be open"),
)


class Exposition(Collector):
    """One scrape's figures, for prometheus-client to render. expected: how many workers there should be."""

    def __init__(self, figures: Iterable[WorkerFigures], expected: int) -> None:
        self._figures = {each.worker: each for each in figures}  # never shows both a worker and its successor
        self._expected = expected

    def text(self, *, openmetrics: bool = False) -> bytes:
        """The figures in the text format, or in that of OpenMetrics."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        if openmetrics:
            return open_metrics.generate_latest(registry)  # type: ignore[no-untyped-call,no-any-return]
        return generate_latest(registry)

    def collect(self) -> Iterator[Family]:
        families = {metric.name: metric.family() for metric in METRICS}
        bounds = {
            metric.name: [*map(floatToGoString, metric.bounds_s), "+Inf"] for metric in METRICS if metric.bounds_s
        }
        for number, figures in sorted(self._figures.items()):
            for name, labels, value in figures.samples:
                families[name].add_metric((str(number), *labels), value)  # type: ignore[attr-defined]
            for name, labels, counts, total in figures.histograms:
                buckets = list(zip(bounds[name], accumulate(counts), strict=True))
                families[name].add_metric((str(number), *labels), buckets, total)  # type: ignore[attr-defined]
        yield from families.values()
        workers = GaugeMetricFamily(
            PREFIX + "workers", "workers, by whether they reported their figures", labels=["state"]
        )
        workers.add_metric(["answered"], len(self._figures))
        workers.add_metric(["silent"], max(0, self._expected - len(self._figures)))
        yield workers
        build = GaugeMetricFamily(PREFIX + "build_info", "always 1", labels=["version", "python"])
        build.add_metric([gateway.__version__, platform.python_version()], 1)
        yield build


class Metrics:
    """Handler of `/metrics`. figures: those of every worker that answers within the given seconds.
    broker: None without the embedded broker."""

    def __init__(
        self,
        figures: Callable[[float], Awaitable[Sequence[WorkerFigures]]],
        workers: int,
        turns: Turns,
        broker: BrokerText | None,
    ) -> None:
        self._figures = figures
        self._workers = workers
        self._turns = turns
        self._broker = broker

    async def scrape(self, call: Call) -> Answer:
        """Everything, or for a key with a tenant or with `queues` the queues that it may see."""
        figures = await self._figures(WITHIN_S)
        accepted = ranges(call.accept)
        weight = accepted.get("application/openmetrics-text", 0.0)
        openmetrics = 0 < weight >= accepted.get("text/plain", 0.0)
        text = await self._queue_text(figures, call.caller)
        if call.caller.sees_deployment and not call.caller.queues:
            # In a thread, because a gateway with many workers has thousands of series.
            text = await asyncio.to_thread(Exposition(figures, self._workers).text, openmetrics=openmetrics) + text
            text = text.replace(END, b"", 1) + (await self._broker.text() if self._broker is not None else b"")
        return Answer(
            200, text + END if openmetrics else text, [OPENMETRICS if openmetrics else CONTENT_TYPE, NO_STORE]
        )

    async def _queue_text(self, figures: Sequence[WorkerFigures], caller: Caller) -> bytes:
        """The metrics of queues; empty if no worker has read them yet."""
        found = next((each.queues for each in figures if each.queues is not None), None)
        if found is None:
            return b""

        def shows(row: QueueRow) -> bool:
            return (caller.sees_deployment or row[0] == caller.tenant) and caller.may_use(row[1])

        everything = caller.sees_deployment and not caller.queues
        return await queue_text(QueueTable.of(found), self._turns, None if everything else shows)
