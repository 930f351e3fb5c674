"""The spans of one request: its enqueue, its deliveries, and its redrive. Implements gateway.api.context.RequestTrace.

1. The parent of a span is the trace context of the request, if it has one.
2. Jobs carry the context of the span that enqueued them, except for events that have a trace of their own.
3. A delivery is linked to the contexts that its jobs carry. It is not their child: a batch has many of them.
4. A request that stores nothing, such as a repeated one, has no span. Neither has a poll that gets no job.
5. A redrive is linked to the contexts that its jobs keep. Its span names the queue that they are put on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from opentelemetry.trace import Link, Span, Tracer

from gateway.delivery.queues.catalog import Queue
from gateway.envelope.read import Job
from gateway.leases.lease import Lease
from gateway.request import HttpRequest
from gateway.traces.conventions import (
    ATTEMPT,
    BATCH_COUNT,
    BODY_SIZE,
    ENQUEUE,
    NEXT,
    PARTLY_STORED,
    REDRIVE,
    REQUEST_ID,
)
from gateway.traces.lease_spans import LeaseSpans, TracedDelivery
from gateway.traces.spans import Attributes, begin, finish, link_to, message_id, of_request, trace_context, traceparent

MOST_LINKS: Final = 128
"""Source: OpenTelemetry's default limit of links of a span (OTEL_SPAN_LINK_COUNT_LIMIT)."""


@dataclass(slots=True)
class _Redriven:
    """What a redrive has put on its target. links: to the first MOST_LINKS jobs. job_id: of the last one."""

    target: Queue
    links: list[Link] = field(default_factory=list)
    jobs: int = 0
    job_id: str | None = None

    def add(self, job: Job) -> None:
        self.jobs += 1
        self.job_id = job.id
        if len(self.links) < MOST_LINKS and (link := link_to(job)) is not None:
            self.links.append(link)


class RequestSpans:
    """trace_id: of its newest span, in hex; empty if it has none."""

    __slots__ = (
        "_began_ns",
        "_enqueue",
        "_id",
        "_jobs",
        "_lease_spans",
        "_redriven",
        "_request",
        "_tracer",
        "trace_id",
    )

    def __init__(self, tracer: Tracer, lease_spans: LeaseSpans, request: HttpRequest, request_id: str) -> None:
        self._tracer = tracer
        self._lease_spans = lease_spans
        self._request = request
        self._id = request_id
        self._began_ns = time.time_ns()
        self._enqueue: Span | None = None
        self._jobs: int | None = None
        self._redriven: _Redriven | None = None
        self.trace_id = ""

    def enqueue(self, queue: Queue, parent: str, state: str) -> str:
        """See RequestTrace."""
        if self._enqueue is None:
            self._enqueue = begin(
                self._tracer,
                ENQUEUE,
                queue.tenant,
                queue.name,
                parent=trace_context(parent, state) if parent else None,
                attributes={REQUEST_ID: self._id},
                start_ns=self._began_ns,
            )
        return self._note(self._enqueue)

    def many(self, jobs: int) -> None:
        """See RequestTrace."""
        self._jobs = (self._jobs or 0) + jobs

    def delivered(self, queue: Queue, jobs: Sequence[tuple[Job, Lease]]) -> None:
        """See RequestTrace."""
        job, first = jobs[0]
        batch = bool(first.batch_id)
        links = [link_to(each) for each, _ in jobs[:MOST_LINKS]]
        about: Attributes = {BATCH_COUNT: len(jobs)}
        if not batch and len(jobs) == 1:
            about = message_id(first.job_id) | {ATTEMPT: first.attempt, BODY_SIZE: len(job.stored)}
        span = begin(
            self._tracer,
            NEXT,
            queue.tenant,
            queue.name,
            parent=of_request(self._request),
            links=_present(links),
            attributes=about | {REQUEST_ID: self._id},
            start_ns=self._began_ns,
        )
        self._note(span)
        sampled = span.is_recording()
        span.end()
        self._began_ns = time.time_ns()  # the next delivery of a stream
        if not sampled:
            return
        context = span.get_span_context()
        leases = [lease for _, lease in jobs]
        if batch:
            whole = TracedDelivery(queue.tenant, queue.name, context, _present(links), len(leases), batch=True)
            self._lease_spans.watch(whole, leases)
            return
        for place, lease in enumerate(leases):
            own = _present(links[place : place + 1])
            self._lease_spans.watch(TracedDelivery(queue.tenant, queue.name, context, own, 1, batch=False), [lease])

    def redrive(self, target: Queue) -> Callable[[Job], None]:
        """See RequestTrace."""
        self._redriven = _Redriven(target)
        return self._redriven.add

    def ended(self, job_id: str, size: int, status: int, code: str) -> None:
        """See RequestTrace."""
        if self._redriven is not None and (self._redriven.jobs or code):
            self._redrive_ended(self._redriven, code)
        span = self._enqueue
        if span is None:
            return
        if self._jobs is None:
            span.set_attributes(message_id(job_id) | {BODY_SIZE: size})
        else:
            span.set_attribute(BATCH_COUNT, self._jobs)
        finish(span, code or (PARTLY_STORED if status == 207 else ""))

    def _redrive_ended(self, redriven: _Redriven, code: str) -> None:
        about = message_id(redriven.job_id) if redriven.jobs == 1 else Attributes({BATCH_COUNT: redriven.jobs})
        span = begin(
            self._tracer,
            REDRIVE,
            redriven.target.tenant,
            redriven.target.name,
            parent=of_request(self._request),
            links=redriven.links,
            attributes=about | {REQUEST_ID: self._id},
            start_ns=self._began_ns,
        )
        self._note(span)
        finish(span, code)

    def _note(self, span: Span) -> str:
        """The traceparent of the span."""
        found = traceparent(span.get_span_context())
        self.trace_id = found[3:35]
        return found


def _present(links: Sequence[Link | None]) -> list[Link]:
    return [link for link in links if link is not None]
