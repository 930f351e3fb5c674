"""Making spans: of an operation on a queue, with parents and links in the form of trace context (W3C)."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
    set_span_in_context,
)

from gateway.envelope.read import Job
from gateway.envelope.trace import is_traceparent, is_tracestate
from gateway.names.namespace import FANOUT
from gateway.request import HttpRequest
from gateway.traces.conventions import (
    DESTINATION,
    ERROR_TYPE,
    MESSAGE_ID,
    MESSAGE_ID_CHARS,
    OPERATION_NAME,
    OPERATION_TYPE,
    SUBSCRIPTION,
    SYSTEM,
    SYSTEM_NAME,
    TENANT,
    SpanOperation,
)

Attributes = dict[str, str | int]


def begin(
    tracer: Tracer,
    operation: SpanOperation,
    tenant: str,
    queue: str,
    *,
    parent: SpanContext | None,
    links: Sequence[Link] = (),
    attributes: Attributes,
    start_ns: int,
) -> Span:
    """A span that has begun at `start_ns`. queue: its name, `{queue}+{child}` for a subscription. parent: None for a
    trace of its own."""
    destination, _, child = queue.partition(FANOUT)
    found: Attributes = {
        SYSTEM: SYSTEM_NAME,
        OPERATION_NAME: operation.name,
        OPERATION_TYPE: operation.type,
        DESTINATION: destination,
    }
    if child:
        found[SUBSCRIPTION] = child
    if tenant:
        found[TENANT] = tenant
    context = Context() if parent is None else set_span_in_context(NonRecordingSpan(parent), Context())
    return tracer.start_span(
        f"{operation.name} {destination}",
        context,
        operation.kind,
        found | attributes,
        links,
        start_ns,
    )


def finish(span: Span, error: str) -> None:
    """Ends the span. error: its `error.type`; empty if it has succeeded."""
    if error:
        span.set_attribute(ERROR_TYPE, error)
        span.set_status(Status(StatusCode.ERROR))
    span.end()


def trace_context(parent: str, state: str) -> SpanContext:
    """The trace context in a valid `traceparent`. state: a valid `tracestate`, or empty."""
    _, trace_id, span_id, flags = parent.split("-")[:4]
    return SpanContext(
        int(trace_id, 16),
        int(span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(int(flags, 16)),
        trace_state=TraceState.from_header([state]) if state else None,
    )


def traceparent(context: SpanContext) -> str:
    """The header of a trace context."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def of_request(request: HttpRequest) -> SpanContext | None:
    """The trace context of a request; None if it has none, or none that is valid."""
    if b"traceparent" not in request.names:
        return None
    parents = [value for name, value in request.headers if name == b"traceparent"]
    states = b",".join(value for name, value in request.headers if name == b"tracestate")
    return _valid(parents[0].decode("latin-1").strip(), states.decode("latin-1")) if len(parents) == 1 else None


def link_to(job: Job) -> Link | None:
    """A link to the trace context in the envelope of the job; None if it has none."""
    parent, state = job.event.get("traceparent"), job.event.get("tracestate")
    found = _valid(parent, state if isinstance(state, str) else "") if isinstance(parent, str) else None
    return Link(found, message_id(job.id)) if found is not None else None


def message_id(job_id: str | None) -> Attributes:
    """The attribute with the id; none for a raw item."""
    return Attributes({MESSAGE_ID: job_id[:MESSAGE_ID_CHARS]} if job_id else {})


def _valid(parent: str, state: str) -> SpanContext | None:
    if not is_traceparent(parent):
        return None
    return trace_context(parent, state if is_tracestate(state) else "")
