"""The traces of one worker: what the application gives to its parts."""

from __future__ import annotations

from gateway.leases.known import KnownLeases
from gateway.request import HttpRequest
from gateway.traces.export import SpanExport
from gateway.traces.lease_spans import LeaseSpans
from gateway.traces.request_spans import RequestSpans


class Traces:
    """leases: of this worker, which are watched. boot_id: of the worker. export: to the collector."""

    def __init__(self, leases: KnownLeases, boot_id: str) -> None:
        self.export = SpanExport(boot_id)
        self._lease_spans = LeaseSpans(self.export.tracer, leases)

    def of(self, request: HttpRequest, request_id: str) -> RequestSpans:
        """The spans of a request that begins now."""
        return RequestSpans(self.export.tracer, self._lease_spans, request, request_id)
