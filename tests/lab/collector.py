"""An OpenTelemetry collector for tests: receives spans by OTLP/HTTP on loopback, and keeps them.

Source: opentelemetry-proto, collector/trace/v1/trace_service.proto. The binary form of ids is shown in hex.
"""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

WITHIN_S = 60.0
"""A limit for a loaded machine; spans are sent after milliseconds."""


@dataclass(frozen=True)
class SpanSeen:
    """One span. links: the trace and span id of each, with its attributes. resource: what it is a span of."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any]
    links: list[tuple[str, str, dict[str, Any]]]
    failed: bool
    begin_ns: int
    end_ns: int
    resource: dict[str, Any]
    scope: str
    schema: str


class Collector:
    """A server on a free port. spans: all that came. whole: the bytes of all requests. headers: of the last one."""

    def __init__(self) -> None:
        self.spans: list[SpanSeen] = []
        self.whole = b""
        self.headers: dict[str, str] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait(self, enough: Callable[[list[SpanSeen]], bool]) -> list[SpanSeen]:
        """All spans, as soon as they are enough."""
        deadline_s = time.monotonic() + WITHIN_S
        while not enough(self.spans):
            assert time.monotonic() < deadline_s, [(each.name, each.attributes) for each in self.spans]
            time.sleep(0.02)
        return list(self.spans)

    def of(self, queue: str, count: int) -> list[SpanSeen]:
        """The spans about a queue, in the order of their ends, as soon as there are `count` of them; no more may be
        there."""

        def about(spans: list[SpanSeen]) -> list[SpanSeen]:
            return [each for each in spans if each.attributes["messaging.destination.name"] == queue]

        found = about(self.wait(lambda spans: len(about(spans)) >= count))
        assert len(found) == count, [each.name for each in found]
        return sorted(found, key=lambda each: each.end_ns)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class CollectorHandler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.headers = dict(self.headers)
                collector.take(body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200 if self.path == "/v1/traces" else 404)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        return CollectorHandler

    def take(self, body: bytes) -> None:
        """Keeps the spans of a request."""
        self.whole += body
        request = ExportTraceServiceRequest()
        request.ParseFromString(body)
        self.spans += [
            SpanSeen(
                name=span.name,
                kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                trace=span.trace_id.hex(),
                id=span.span_id.hex(),
                parent=span.parent_span_id.hex(),
                attributes=_values(span.attributes),
                links=[(link.trace_id.hex(), link.span_id.hex(), _values(link.attributes)) for link in span.links],
                failed=span.status.code == 2,
                begin_ns=span.start_time_unix_nano,
                end_ns=span.end_time_unix_nano,
                resource=_values(of.resource.attributes),
                scope=scope.scope.name,
                schema=scope.schema_url,
            )
            for of in request.resource_spans
            for scope in of.scope_spans
            for span in scope.spans
        ]


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
