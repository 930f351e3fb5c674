"""Reads what the parts of this worker have counted. Counts nothing itself.

Everything is read in one turn of the loop, so the counts of leases are consistent in every reading.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import ProcessCollector

from gateway.common.histogram import Histogram
from gateway.common.shares import Shares
from gateway.delivery.delay.held_job_mover import HeldJobMover
from gateway.delivery.delay.watch import DelayedJobs
from gateway.delivery.figures.largest import QueueTable
from gateway.delivery.moves import Moves
from gateway.delivery.pause import Pauses
from gateway.delivery.publish import Publisher
from gateway.delivery.receive import Hold, Receiver
from gateway.delivery.streams.open_streams import OpenStreams
from gateway.errors import RateLimited
from gateway.forwarding.commands import HistogramSample, Sample, WorkerFigures
from gateway.forwarding.router import ForwardingStatistics
from gateway.kestrel.client import Kestrel
from gateway.kestrel.health import Health
from gateway.leases.registry import Registry

REQUEST_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Bounds of the buckets: from a request that waits for nothing to the longest poll."""
SHOWN: Final = tuple(each for each in Health if each is not Health.CLOSED)


@dataclass(slots=True)
class Traffic:
    """HTTP requests of this worker. under_way: in progress now. answered: by the first digit of the status; 0 counts
    requests without an answer because the client had disconnected. durations: by operation and first digit; the
    operation is empty for unknown paths. problems: by code.
    """

    under_way: int = 0
    answered: list[int] = field(default_factory=lambda: [0] * 6)
    durations: dict[tuple[str, int], Histogram] = field(default_factory=dict)
    problems: Counter[str] = field(default_factory=lambda: Counter({RateLimited.code: 0}))

    def ended(self, operation: str, status: int, code: str, seconds: float) -> None:
        """A request has ended. status: 0 without an answer. code: of the problem, or empty."""
        digit = status // 100
        self.answered[digit] += 1
        self.under_way -= 1
        durations = self.durations.get((operation, digit))
        if durations is None:
            durations = self.durations[operation, digit] = Histogram(REQUEST_S)
        durations.observe(seconds)
        if code:
            self.problems[code] += 1


class Meter:
    """Reads one worker. worker: its number. forwarding: what it forwarded. shares: of shared limits, by name.
    routes: the method and path of each operation. queues: the figures of queues, if this worker reads them."""

    def __init__(
        self,
        worker: int,
        *,
        kestrel: Kestrel,
        registry: Registry,
        forwarding: ForwardingStatistics,
        receiver: Receiver,
        streams: OpenStreams,
        moves: Moves,
        publisher: Publisher,
        pauses: Pauses,
        mover: HeldJobMover,
        delayed_jobs: DelayedJobs,
        traffic: Traffic,
        shares: Mapping[str, Shares],
        routes: Mapping[str, str],
        queues: Callable[[], QueueTable | None],
    ) -> None:
        self._worker = worker
        self._kestrel = kestrel
        self._registry = registry
        self._forwarding = forwarding
        self._receiver = receiver
        self._streams = streams
        self._moves = moves
        self._publisher = publisher
        self._pauses = pauses
        self._mover = mover
        self._delayed_jobs = delayed_jobs
        self._traffic = traffic
        self._shares = shares
        self._routes = routes
        self._queues = queues
        self._process = ProcessCollector(registry=None)

    def figures(self) -> WorkerFigures:
        """All figures, each under its metric's name without the prefix."""
        return WorkerFigures(
            self._worker,
            (
                *self._leases(),
                *self._forwards(),
                *self._jobs(),
                *self._delays(),
                *self._requests(),
                *self._servers(),
                *self._shared(),
                *self._own(),
            ),
            tuple(self._histograms()),
            self._queues(),
        )

    def _histograms(self) -> Iterator[HistogramSample]:
        for (operation, digit), each in self._traffic.durations.items():
            labels = (self._routes.get(operation, "none"), f"{digit}xx" if digit else "none")
            yield ("http_request_duration_seconds", labels, tuple(each.counts), each.sum_s)
        times = self._receiver.times
        yield ("job_wait_seconds", (), tuple(times.waited.counts), times.waited.sum_s)
        yield ("job_wakeup_seconds", (), tuple(times.woken.counts), times.woken.sum_s)
        for outcome, each in times.held.items():
            yield ("lease_hold_seconds", (outcome,), tuple(each.counts), each.sum_s)

    def _leases(self) -> list[Sample]:
        leases = self._registry.leases.statistics()
        return [
            ("leases_delivered_total", (), leases.delivered),
            *(("leases_settled_total", (outcome,), count) for outcome, count in leases.ended.items()),
            ("leases_open", (), leases.open),
            ("leases_delayed", (), leases.delayed),
            ("leases_remembered", (), leases.remembered),
        ]

    def _forwards(self) -> list[Sample]:
        forwarding = self._forwarding
        return [
            ("forwards_total", ("worker", "sent"), forwarding.to_workers),
            ("forwards_total", ("worker", "received"), forwarding.from_workers),
            ("forwards_total", ("replica", "sent"), forwarding.to_replicas),
            ("forwards_total", ("replica", "received"), forwarding.from_replicas),
            ("forward_failures_total", ("owner_dead",), forwarding.dead),
            ("forward_failures_total", ("unanswered",), forwarding.unanswered),
        ]

    def _jobs(self) -> list[Sample]:
        moves = self._moves.statistics()
        return [
            ("jobs_enqueued_total", (), self._publisher.stored),
            ("jobs_moved_total", ("tail",), moves.moved),
            ("jobs_moved_total", ("holding",), moves.held),
            ("jobs_moved_total", ("dead_letters",), moves.dead_letters),
            ("jobs_kept_at_head_total", (), sum(moves.kept.values())),
            ("jobs_doubled_total", (), moves.doubled),
            ("polls_parked", (), self._receiver.waiting),
            ("streams_open", (), len(self._streams)),
            *(("polls_held_total", (hold.value,), self._receiver.held[hold]) for hold in Hold),
            ("queues_paused", (), self._pauses.number),
            ("draining", (), int(self._receiver.draining)),
        ]

    def _delays(self) -> list[Sample]:
        mover = self._mover.statistics
        return [
            ("delayed_jobs_enqueued_total", (), self._publisher.delayed),
            ("delayed_jobs_moved_total", ("queue",), mover.arrived),
            ("delayed_jobs_moved_total", ("holding",), mover.hops),
            ("delayed_jobs_refused_total", (), mover.refused),
            ("delayed_jobs_expired_total", (), mover.expired),
            ("delayed_jobs_doubled_total", (), mover.doubled),
            ("delayed_jobs_unreadable_total", (), mover.unreadable),
            *(("delayed_jobs_dropped", (server,), count) for server, count in self._delayed_jobs.dropped.items()),
        ]

    def _requests(self) -> list[Sample]:
        unanswered, *answered = self._traffic.answered
        return [
            *(("http_requests_total", (f"{digit}xx",), count) for digit, count in enumerate(answered, 1) if digit > 1),
            ("http_requests_total", ("none",), unanswered),
            ("http_requests_in_flight", (), self._traffic.under_way),
            *(("http_problems_total", (code,), count) for code, count in self._traffic.problems.items()),
        ]

    def _servers(self) -> list[Sample]:
        figures = self._kestrel.statistics()
        connections: Counter[tuple[str, str]] = Counter()
        status: list[Sample] = []
        for backend in self._kestrel.backends():
            for state, count in backend.connections.items():
                connections[backend.server, state] += count
            if not backend.leaving:  # a removed server may have been added again under the same name
                status += [
                    ("kestrel_server_status", (backend.server, each.value), int(backend.state is each))
                    for each in SHOWN
                ]
                status.append(("kestrel_server_full", (backend.server,), int(backend.full)))
        return [
            *(("kestrel_connections", labels, count) for labels, count in connections.items()),
            *status,
            ("kestrel_connects_total", (), figures.connects),
            ("kestrel_connect_failures_total", (), figures.connect_failures),
            ("kestrel_commands_total", (), figures.commands),
            ("kestrel_command_failures_total", (), figures.command_failures),
            ("kestrel_pings_total", (), figures.pings),
            ("kestrel_waits_armed_total", (), figures.waits_sent),
            ("kestrel_waits_cut_total", (), figures.waits_cut),
            ("kestrel_waits", (), figures.open_waits),
            ("kestrel_waited_queues", (), figures.waited_queues),
            ("items_taken_total", (), figures.items_taken),
            ("items_given_back_unserved_total", (), figures.given_back_unserved),
            ("items_lost_total", (), figures.lost_reads),
        ]

    def _shared(self) -> list[Sample]:
        return [
            sample
            for resource, shares in self._shares.items()
            for sample in (
                ("share_limit", (resource,), shares.limit),
                ("share_held", (resource,), shares.held),
                ("share_largest", (resource,), shares.largest),
                ("share_refused_total", (resource,), shares.refused),
            )
        ]

    def _own(self) -> list[Sample]:
        return [(sample.name, (), sample.value) for family in self._process.collect() for sample in family.samples]
