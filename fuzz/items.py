"""An item as anyone may put it: whatever its bytes are, it is shown in every form, and its copies are the same job."""

from __future__ import annotations

import re
from typing import Any

import orjson

from gateway.api.response.rendering import MAX_ATTRIBUTE_BYTES, MAX_ATTRIBUTE_HEADERS, render
from gateway.delivery.queues.catalog import Queue
from gateway.envelope.json_text import NestedTooDeeply, check_json
from gateway.envelope.read import Job, body_of, unwrap
from gateway.envelope.rewrite import (
    DeadLetterMarks,
    DeadReason,
    dead_letter,
    has_known_ttl,
    next_attempt,
    restored,
)
from gateway.problem import problem_bytes  # noqa: F401 (its imports are instrumented, too)

QUEUE = Queue("acme", "emails", "acme__emails")
MARKS = DeadLetterMarks(DeadReason.REJECTED, "emails", 3, 1_790_000_000.0, "it\r\nfailed \ud800")
FORMS: tuple[dict[str, Any], ...] = (
    {},
    {"raw": True},
    {"accept": "application/cloudevents+json"},
    {"accept": "text/*, application/octet-stream;q=0.5, */*;q=0.1"},
)
_NAME = re.compile(rb"[a-z0-9-]+")
_VALUE = re.compile(rb"[\t -~]*")

EVENT = b'{"specversion":"1.0","id":"1","source":"s","type":"t"%b}'
SEEDS = [
    b"",
    b"plain",
    b"[1]",
    b"\xff\x00",
    EVENT % b"",
    EVENT % b',"data":{"a":[1.10,1e400,"\\ud800"]}',
    EVENT % b',"datacontenttype":"text/plain","data":"\xc3\xa9"',
    EVENT % b',"data":%b1%b' % (b"[" * 1024, b"]" * 1024),
    EVENT % b',"data":%b1%b' % (b"[" * 1025, b"]" * 1025),
    EVENT % b',"data_base64":"AAEC"',
    EVENT % b',"data_base64":null,"data":null',
    EVENT % rb',"a\udc00":1,"data":1',
    EVENT % b',"":"","A b":1,"data":1',
    EVENT % b',"a":1,"a":2,"data":1',
    EVENT % b',"attempt":1e400,"enqueued":"2026-01-01T00:00:00Z","expires":"0001-01-01T00:00:00+23:59","data":[]',
    EVENT % b',"time":"2026-02-30T00:00:00Z","tenant":{},"lasterror":[],"n":123456789012345678901234567890,"data":1',
    EVENT % b',"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","tracestate":"a=b","data":1',
    b' { "data" : 1 ,\n"specversion":"1.0","id":"1","source":"s","type":"t"} ',
    dead_letter(unwrap(b"raw"), b"raw", MARKS).data,
    dead_letter(unwrap(EVENT % b',"data":1'), EVENT % b',"data":1', MARKS).data,
]


def one(data: bytes) -> None:
    """Raises AssertionError, or whatever went wrong."""
    job = unwrap(data)
    body = body_of(job)
    if job.id is None:
        assert body == data, "a raw item is its own bytes"
    shown(job)
    has_known_ttl(job, data)
    copy = next_attempt(job, data, job.attempt + 1, "no \x00 luck")
    if copy is not None:
        same(job, unwrap(copy.data))
        again = next_attempt(unwrap(copy.data), copy.data, 3)
        assert again is not None, "a copy can be copied"
    letter = dead_letter(job, data, MARKS).data
    assert unwrap(letter).event["deadqueue"] == "emails"
    shown(unwrap(letter))
    back = restored(letter)
    assert body_of(unwrap(back.data)) == body, "a dead letter that is brought back is the same job"
    restored(data)


def shown(job: Job) -> None:
    """Every form is an answer that HTTP can carry."""
    for form in FORMS:
        body, headers = render(job, QUEUE, job.attempt, **form)
        assert all(_NAME.fullmatch(name) and _VALUE.fullmatch(value) for name, value in headers), headers
        assert sum(len(name) + len(value) + 4 for name, value in headers) < MAX_ATTRIBUTE_BYTES + 2048
        assert len(headers) < MAX_ATTRIBUTE_HEADERS + 10
        kind = dict(headers)[b"content-type"]
        if form == {"raw": True}:
            assert body == body_of(job)
        elif kind in (b"application/json", b"application/cloudevents+json"):
            valid(body, job)
            if job.member != "data":
                assert orjson.loads(body)["attempt"] == job.attempt


def valid(body: bytes, job: Job) -> None:
    """It is JSON. The payload may have as many levels as are allowed, and what is around it has one more."""
    try:
        check_json(body)
    except NestedTooDeeply:
        check_json(job.payload)
        check_json(body.replace(job.payload, b"0"))


def same(job: Job, other: Job) -> None:
    """A copy has the job's id, payload and expiry."""
    assert (job.id, job.member, job.payload.strip(), job.content_type) == (
        other.id,
        other.member,
        other.payload.strip(),
        other.content_type,
    )
    assert job.expires_s == other.expires_s
