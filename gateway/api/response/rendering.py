"""A job as an HTTP answer: which of three forms the client wants, and the body and headers of that form.

    object  `application/json`               id, attempt, payload and attributes in one JSON object; always possible
    event   `application/cloudevents+json`   the stored event; not for raw items
    bytes   the job's own type               the job's bytes, with its attributes in headers

A batch is one JSON object with a list of jobs, a list of events (`application/cloudevents-batch+json`), or lines
(`application/x-ndjson`): first the lease, then one job object each.

1. Accept selects the form (RFC 9110, section 12.5.1); among equal weights, the first form above. The job's own bytes
   are returned with `format=raw`, or if Accept includes their type, even by `text/*`, and the type is not JSON.
2. If Accept allows none of them, the answer is the object: a job that was taken is delivered.
3. What cannot be rendered in a form is rendered as the object. `format=raw` always returns bytes: attributes that no
   header can hold are left out, and a header gives their number. A client that cannot read the head of an answer would
   never learn of its lease, so the attributes take at most 70 lines and 8 KiB of it, whatever the event contains.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

import orjson

from gateway.api.exchange import JSON, NO_STORE
from gateway.api.request.accept import quality, ranges
from gateway.delivery.queues.catalog import Queue
from gateway.envelope.attributes import is_name, to_header
from gateway.envelope.media import (
    BATCH_TYPE,
    BYTES_TYPE,
    LINES_TYPE,
    STRUCTURED_TYPE,
    essence,
    fits_header,
    is_json_type,
)
from gateway.envelope.read import Job, body_of
from gateway.envelope.times import timestamp
from gateway.envelope.trace import is_traceparent, is_tracestate
from gateway.leases.lease import Lease
from gateway.request import Headers

MAX_ATTRIBUTE_HEADERS = 50
"""As headers. Python's http.client accepts at most a hundred header lines."""
MAX_ATTRIBUTE_BYTES = 4096
"""All their lines together. Proxies accept heads of 8 KiB or less, Node 16 KiB."""
_LINE_BYTES = len(b"ce-: \r\n")
_FIRST = ("specversion", "id", "source", "type", "time", "enqueued", "expires", "tenant", "traceparent")

_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")
_EVENT: tuple[bytes, bytes] = (b"content-type", STRUCTURED_TYPE.encode())
_EVENTS: tuple[bytes, bytes] = (b"content-type", BATCH_TYPE.encode())
_LINES: tuple[bytes, bytes] = (b"content-type", LINES_TYPE.encode())
_SANDBOX: tuple[bytes, bytes] = (b"content-security-policy", b"default-src 'none'; sandbox")


class Form(Enum):
    """The forms of a job."""

    OBJECT = "object"
    EVENT = "event"
    BYTES = "bytes"


class BatchForm(Enum):
    """The forms of a batch."""

    OBJECT = "object"
    EVENTS = "events"
    LINES = "lines"


def render(
    job: Job,
    queue: Queue,
    attempt: int,
    lease: Lease | None = None,
    *,
    accept: str = "",
    raw: bool = False,
    root: str = "",
) -> tuple[bytes, Headers]:
    """The body and the headers of an answer with the job, and with its lease if it was taken. Never raises.

    accept: the Accept header, empty if it is absent. raw: the request has `format=raw`. root: the prefix of URLs.
    """
    headers: Headers = [NO_STORE]
    shown = None
    if lease is not None:
        shown = _shown(lease, root)
        headers += [(b"lease-id", shown.id), (b"lease-expires", shown.expires), (b"location", shown.url)]
    if "traceparent" in job.event:
        headers += _trace_headers(job)
    form = Form.BYTES if raw else _form(job, accept)
    if form is Form.BYTES:
        attributes = _attribute_headers(job, queue, attempt, whole=not raw)
        if attributes is not None:
            return body_of(job), [(b"content-type", _bytes_type(job)), _SANDBOX, *attributes, *headers]
    if form is Form.EVENT:
        return _event(job, queue, attempt), [_EVENT, *headers]
    return _object(job, queue, attempt, shown), [JSON, *headers]


def render_leased(job: Job, queue: Queue, lease: Lease, *, root: str = "") -> bytes:
    """The JSON object of a request that leases: the jobs, and their one lease. root: as in `render`."""
    return b'{"jobs":[%b],"lease":%b}' % (_object(job, queue, lease.attempt), _handle(_shown(lease, root)))


def render_object(job: Job, queue: Queue, lease: Lease, *, root: str = "") -> bytes:
    """The JSON object with the job and its lease, on one line. root: as in `render`.

    Between the tokens of JSON a line break means the same as a space, and no string contains one.
    """
    return _one_line(_object(job, queue, lease.attempt, _shown(lease, root)))


def _one_line(shown: bytes) -> bytes:
    return shown.translate(_ONE_LINE) if b"\n" in shown or b"\r" in shown else shown


def render_batch(
    jobs: Sequence[Job], queue: Queue, leases: Sequence[Lease], *, accept: str = "", root: str = ""
) -> tuple[bytes, Headers]:
    """The body and the headers of an answer with a batch. leases: of the jobs; the first names the batch.

    accept, root: as in `render`. If Accept allows no form, or selects events and a job is none, it is a JSON object.
    """
    shown = _shown(leases[0], root)
    headers: Headers = [NO_STORE, (b"lease-id", shown.id), (b"lease-expires", shown.expires), (b"location", shown.url)]
    form = _batch_form(jobs, accept)
    if form is BatchForm.EVENTS:
        events = [_event(job, queue, lease.attempt) for job, lease in zip(jobs, leases, strict=True)]
        return b"[%b]" % b",".join(events), [_EVENTS, *headers]
    objects = [_object(job, queue, lease.attempt) for job, lease in zip(jobs, leases, strict=True)]
    if form is BatchForm.LINES:
        return b'{"lease":%b}\n%b\n' % (_handle(shown), b"\n".join(map(_one_line, objects))), [_LINES, *headers]
    return b'{"jobs":[%b],"lease":%b}' % (b",".join(objects), _handle(shown)), [JSON, *headers]


def _batch_form(jobs: Sequence[Job], accept: str) -> BatchForm:
    if accept in ("", "*/*", "application/json"):
        return BatchForm.OBJECT
    found = ranges(accept)
    welcome = [(quality(found, "application/json"), BatchForm.OBJECT)]
    if all(job.id is not None for job in jobs):
        welcome.append((quality(found, BATCH_TYPE), BatchForm.EVENTS))
    welcome.append((quality(found, LINES_TYPE), BatchForm.LINES))
    best = max(weight for weight, _ in welcome)
    return next(form for weight, form in welcome if weight == best) if best else BatchForm.OBJECT


def _form(job: Job, accept: str) -> Form:
    if accept in ("", "*/*", "application/json"):
        return Form.OBJECT
    found = ranges(accept)
    own = essence(job.content_type)
    welcome = [(quality(found, "application/json"), Form.OBJECT)]
    if job.id is not None:
        welcome.append((quality(found, STRUCTURED_TYPE), Form.EVENT))
    if not is_json_type(job.content_type) and fits_header(job.content_type):
        named = {name: weight for name, weight in found.items() if name != "*/*"}
        welcome.append((quality(named, own), Form.BYTES))
    best = max(weight for weight, _ in welcome)
    return next(form for weight, form in welcome if weight == best) if best else Form.OBJECT


class _ShownLease(NamedTuple):
    """A lease as its consumer gets it, in the headers and in the body. expires: RFC 3339."""

    id: bytes
    expires: bytes
    url: bytes


def _shown(lease: Lease, root: str) -> _ShownLease:
    lease_id = lease.id.encode()
    return _ShownLease(lease_id, timestamp(lease.expires_at_s).encode(), b"%b/leases/%b" % (root.encode(), lease_id))


def _object(job: Job, queue: Queue, attempt: int, lease: _ShownLease | None = None) -> bytes:
    """The JSON object, with the payload byte for byte."""
    payload = b',"%b":%b' % (job.member.encode(), job.payload) if job.member else b""
    shown = b'{"id":%b,"queue":"%b","attempt":%d,"enqueued_at":%b,"content_type":%b%b,"attributes":%b' % (
        orjson.dumps(job.id),
        queue.name.encode(),
        attempt,
        orjson.dumps(job.enqueued_at),
        orjson.dumps(job.content_type),
        payload,
        orjson.dumps(job.attributes),
    )
    if lease is None:
        return shown + b"}"
    return b'%b,"lease":%b}' % (shown, _handle(lease))


def _handle(lease: _ShownLease) -> bytes:
    """The lease as JSON."""
    return b'{"id":"%b","expires_at":"%b","url":"%b"}' % lease


def _event(job: Job, queue: Queue, attempt: int) -> bytes:
    """The stored event with the current attempt and tenant, and its data byte for byte."""
    head = orjson.dumps(_attributes(job, queue, attempt))
    return b'%b,"%b":%b}' % (head[:-1], job.member.encode(), job.payload) if job.member else head


def _attributes(job: Job, queue: Queue, attempt: int) -> dict[str, str | int | bool]:
    tenant = {"tenant": queue.tenant} if queue.tenant else {}
    return {**job.event, **tenant, "attempt": attempt}


def _bytes_type(job: Job) -> bytes:
    """The job's own type, or that of arbitrary bytes if a header cannot hold it."""
    return job.content_type.encode() if fits_header(job.content_type) else BYTES_TYPE.encode()


def _attribute_headers(job: Job, queue: Queue, attempt: int, *, whole: bool) -> Headers | None:
    """The attributes as `ce-` headers; only the attempt for a raw item. whole: None if one attribute does not fit."""
    headers: Headers = [(b"ce-attempt", b"%d" % attempt)]
    attributes = _attributes(job, queue, attempt) if job.id is not None else {}
    left_bytes, left_out = MAX_ATTRIBUTE_BYTES, 0
    for name in dict.fromkeys([*(each for each in _FIRST if each in attributes), *attributes]):
        if name in ("attempt", "datacontenttype"):
            continue
        line = _attribute_header(name, attributes[name], left_bytes) if len(headers) <= MAX_ATTRIBUTE_HEADERS else None
        if line is not None:
            left_bytes -= len(name) + len(line[1]) + _LINE_BYTES
            headers.append(line)
        elif whole:
            return None
        else:
            left_out += 1
    if left_out:
        headers.append((b"attributes-left-out", b"%d" % left_out))
    return headers


def _attribute_header(name: str, value: str | int | bool, left_bytes: int) -> tuple[bytes, bytes] | None:
    """None if the name cannot be a header's, or if the line is longer than the space left."""
    if not is_name(name) or (isinstance(value, str) and len(value) > left_bytes):
        return None
    encoded = to_header(value)
    return (b"ce-" + name.encode(), encoded) if len(name) + len(encoded) + _LINE_BYTES <= left_bytes else None


def _trace_headers(job: Job) -> Headers:
    """The stored trace context, if it is valid."""
    parent, state = job.event["traceparent"], job.event.get("tracestate", "")
    if not isinstance(parent, str) or not is_traceparent(parent):
        return []
    headers: Headers = [(b"traceparent", parent.encode())]
    if isinstance(state, str) and is_tracestate(state):
        headers.append((b"tracestate", state.encode()))
    return headers
