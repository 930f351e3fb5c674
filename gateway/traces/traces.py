"""The traces of one worker: what the application gives to its parts."""

from __future__ import annotations

from gateway.delivery.queues.catalog import Queue
from gateway.envelope.read import Job
from gateway.leases.known import KnownLeases
from gateway.leases.lease import Place
from gateway.request import HttpRequest
from gateway.traces.conventions import ATTEMPT, DEAD_LETTER, PLACE
from gateway.traces.export import SpanExport
from gateway.traces.lease_spans import LeaseSpans
from gateway.traces.request_spans import RequestSpans
from gateway.traces.spans import begin, finish, link_to, message_id


class Traces:
    """leases: of this worker, which are watched. boot_id: of the worker. export: to the collector."""

    def __init__(self, leases: KnownLeases, boot_id: str) -> None:
        self.export = SpanExport(boot_id)
        self._lease_spans = LeaseSpans(self.export.tracer, leases)

    def of(self, request: HttpRequest, request_id: str) -> RequestSpans:
        """The spans of a request that begins now."""
        return RequestSpans(self.export.tracer, self._lease_spans, request, request_id)

    def exhausted(self, queue: Queue, job: Job, attempts: int, began_ns: int) -> None:
        """See Moves.exhausted. The span is in a trace of its own: the poll that found the job goes on."""
        link = link_to(job)
        span = begin(
            self.export.tracer,
            DEAD_LETTER,
            queue.tenant,
            queue.name,
            parent=None,
            links=[link] if link is not None else [],
            attributes=message_id(job.id) | {ATTEMPT: attempts, PLACE: Place.DEAD.value},
            start_ns=began_ns,
        )
        finish(span, DEAD_LETTER.error)
