"""Sends the spans of a worker to a collector, in a thread of its own. Configured by OpenTelemetry's variables.

1. Spans wait in memory, a limited number of them. While the collector does not keep up, further spans are dropped.
2. Nothing waits for the collector: requests and the drain go on without it. At the stop the last spans get FLUSH_S.
3. Each message of OpenTelemetry is logged as a warning, at most one of each kind in some seconds.

Source: OpenTelemetry specification 1.59, "Batching processor" and "OpenTelemetry Protocol Exporter".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Sequence
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Tracer

import gateway
from gateway.common.limited_log import LimitedLog
from gateway.traces.conventions import SCHEMA_URL

log = logging.getLogger(__name__)

FLUSH_S: Final = 2.0
"""The longest wait for the last spans. A collector that is near takes milliseconds."""
UNREACHABLE_S: Final = 0.1
"""The same if the collector did not answer before: waiting longer would only delay the stop."""
_LOGGER: Final = "opentelemetry"
_PROTOCOL: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


class SpanExport:
    """boot_id: of the worker. tracer: makes its spans; those that end before `start` are dropped."""

    def __init__(self, boot_id: str) -> None:
        self._provider = TracerProvider(resource=_resource(boot_id), shutdown_on_exit=False)
        self._collector: _Collector | None = None
        self.tracer: Tracer = self._provider.get_tracer("kestrel-gateway", gateway.__version__, SCHEMA_URL)

    def start(self) -> None:
        """Starts the thread. Call it in the process that makes the spans: a fork would not have the thread."""
        self._collector = collector = _Collector()
        logger = logging.getLogger(_LOGGER)
        logger.propagate = False
        logger.handlers = [_Warnings(collector)]
        for name in _PROTOCOL:
            if (protocol := os.environ.get(name, "")) not in ("", "http/protobuf"):
                log.warning("traces: %s: %r is not supported; spans are sent as http/protobuf", name, protocol)
        self._provider.add_span_processor(BatchSpanProcessor(collector))

    async def close(self, within_s: float) -> None:
        """Sends the spans that have ended. Returns after `within_s` or FLUSH_S at the latest, sent or not.

        Cancelled: they may not be sent.
        """
        if self._collector is None:
            return
        loop = asyncio.get_running_loop()
        sent = asyncio.Event()

        def flush() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(sent.set)

        # A daemon: the process exits without it, if the collector does not answer.
        threading.Thread(target=flush, name="flush of traces", daemon=True).start()
        most_s = UNREACHABLE_S if self._collector.failing else FLUSH_S
        try:
            await asyncio.wait_for(sent.wait(), max(UNREACHABLE_S, min(within_s, most_s)))
        except TimeoutError:
            log.warning("traces: the last spans are not sent: the collector did not answer in time")


class _Collector(SpanExporter):
    """The collector, and whether the last attempt to reach it has failed."""

    def __init__(self) -> None:
        self.failing = False
        self._exporter = OTLPSpanExporter()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        self.failing = result is not SpanExportResult.SUCCESS
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call] # it has no annotation

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _Warnings(logging.Handler):
    """Writes what OpenTelemetry logs, in the thread of the exporter or in the loop, as few warnings of the gateway."""

    def __init__(self, collector: _Collector) -> None:
        super().__init__(logging.WARNING)
        self._collector = collector
        self._limited = LimitedLog()

    def emit(self, record: logging.LogRecord) -> None:
        exporting = ".exporter." in record.name
        self._collector.failing |= exporting
        if (more := self._limited.count(record.name)) is not None:
            log.warning("traces: %s%s", record.getMessage(), more)


def _resource(boot_id: str) -> Resource:
    """What the spans are of. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES come before the gateway's own names."""
    own = {
        "service.name": "kestrel-gateway",
        "service.version": gateway.__version__,
        "service.instance.id": boot_id,
    }
    return Resource.create(own | dict(OTELResourceDetector().detect().attributes))
