"""The HTTP binding of CloudEvents, for reading: the headers of a request that enqueues, and the items in its body.

Content modes: plain (any body is one job), binary (`ce-` headers), structured (`application/cloudevents+json`), batch
(`application/cloudevents-batch+json`) and lines (`application/x-ndjson` and its other names: one JSON job per line).

1. The Content-Type alone selects structured and batch mode: headers may repeat the event's attributes (section 3.2.3).
2. With any other Content-Type, `ce-` headers select binary mode: the body is the event's data, whatever its type.
Source: CloudEvents HTTP binding 1.0.2, section 3; its JSON format, section 4 (batches).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Final

from gateway.common.counted import counted
from gateway.envelope.attributes import MAX_ATTRIBUTES, from_header
from gateway.envelope.due import due_ms
from gateway.envelope.job_object import JobObject, job_object, jobs_of
from gateway.envelope.json_text import BOM, MAX_BLANK, ElementTooLarge, elements
from gateway.envelope.media import (
    BATCH_TYPE,
    JSON_TYPE,
    LINES_TYPE,
    STRUCTURED_TYPE,
    charset_fault,
    contradict,
    essence,
    is_lines_type,
    is_media_type,
    is_unread_type,
    media_type_fault,
)
from gateway.envelope.trace import is_traceparent, is_tracestate
from gateway.envelope.write import EnqueueContext, Item, Wrapping, wrap, wrap_binary, wrap_event
from gateway.errors import (
    BadRequest,
    GatewayError,
    InvalidBody,
    InvalidEvent,
    InvalidParameter,
    JobTooLarge,
    UnsupportedEncoding,
    UnsupportedType,
)

_MOST_ESCAPED: Final = 6
"""JSON writes a byte of text with at most six bytes (`\\u0001`); base64 needs less."""
_FRAME: Final = 1024
"""Bytes of the object around a payload: its member names and its type."""
_SPACE: Final = 0x20
"""No byte of white space is larger."""
_BLANK: Final = re.compile(rb"[ \t\r\n]*+")


class Mode(Enum):
    """How the body is read."""

    __hash__ = object.__hash__  # members are looked up for every request; Enum's own is a function of Python

    PLAIN = "plain"
    BINARY = "binary"
    STRUCTURED = "structured"
    BATCH = "batch"
    LINES = "lines"
    JOBS = "jobs"
    """`{"jobs": [...]}`, selected by the path."""

    JOB_LINES = "job-lines"
    """One such job on each line, selected by the path and the type."""

    UNREAD = "unread"
    """Events, or many jobs, in an unsupported format: not a job."""


LINES = frozenset({Mode.LINES, Mode.JOB_LINES})
JOB_OBJECTS = frozenset({Mode.JOBS, Mode.JOB_LINES})
MANY = frozenset({Mode.BATCH, Mode.LINES}) | JOB_OBJECTS
EVENTS = frozenset({Mode.BINARY, Mode.STRUCTURED, Mode.BATCH})


@dataclass(slots=True)
class Heading:
    """The headers of an enqueue. attributes: from the `ce-` headers. traceparent, tracestate: valid or empty."""

    mode: Mode = Mode.PLAIN
    content_type: str | None = None
    attributes: dict[str, str] = field(default_factory=dict)
    traceparent: str = ""
    tracestate: str = ""


def read_heading(headers: Iterable[tuple[bytes, bytes]]) -> Heading:
    """Reads the headers.

    Raises:
        InvalidParameter: an invalid or repeated Content-Type. UnsupportedEncoding: a compressed body.
        InvalidEvent: in binary mode, a `ce-` header that is not UTF-8 or is repeated, or a `ce-datacontenttype` that
        contradicts the Content-Type.
    """
    heading = Heading()
    types = 0
    attributes: list[tuple[bytes, bytes]] = []
    parents: list[bytes] = []
    states: list[bytes] = []
    for name, value in headers:
        if name == b"content-type":
            types += 1
            heading.content_type, heading.mode = _read_type(value)
        elif name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise UnsupportedEncoding("compressed bodies are not accepted; send the body without Content-Encoding")
        elif name[:3] == b"ce-":
            attributes.append((name[3:], value))
        elif name == b"traceparent":
            parents.append(value)
        elif name == b"tracestate":
            states.append(value)
    if types > 1:
        raise InvalidParameter(f"Content-Type is given {counted(types, 'time')}; send it once")
    if attributes and heading.mode not in (Mode.STRUCTURED, Mode.BATCH):
        heading.mode = Mode.BINARY
        _set_attributes(heading, attributes)
    if len(parents) == 1:
        _set_trace(heading, parents[0], b",".join(states))
    return heading


def one_item(heading: Heading, body: bytes, stamp: EnqueueContext, job_id: str) -> Item:
    """The item of a request with one job. Raises InvalidBody, InvalidEvent, UnsupportedType."""
    _check_charset(heading)
    if heading.mode is Mode.PLAIN:
        return wrap(body, heading.content_type, job_id=job_id, stamp=stamp)
    if heading.mode is Mode.STRUCTURED:
        return wrap_event(body.removeprefix(BOM), job_id=job_id, stamp=stamp)
    if heading.mode is Mode.UNREAD:
        raise UnsupportedType(_instead(heading.content_type or ""))
    return wrap_binary(heading.attributes, body, heading.content_type, job_id=job_id, stamp=stamp)


def longest_line(mode: Mode, limit_bytes: int) -> int:
    """The longest line, in bytes, of a body of lines whose jobs have at most `limit_bytes`."""
    return limit_bytes * _MOST_ESCAPED + _FRAME if mode is Mode.JOB_LINES else limit_bytes + MAX_BLANK


def many_items(
    heading: Heading,
    body: bytes,
    stamp: EnqueueContext,
    new_id: Callable[[], str],
    *,
    limit: int,
    limit_bytes: int,
    raw: bool = False,
) -> Iterator[Item | GatewayError]:
    """The items of a request with many jobs, each at its position; an error in place of an invalid job. Lazy: each item
    is made when it is requested.

    new_id: called once per job, in order. limit: number of jobs. limit_bytes: of one job.
    raw: whether the queue stores payloads only.

    Raises:
        UnsupportedType: it is JSON, but not in UTF-8.
        InvalidBody: the body cannot be split into jobs. JobTooLarge: it has too many jobs, or an event of a batch is
        too large, which is detected before the event is read.
    """
    _check_charset(heading)
    wrapping = Wrapping(stamp)
    objects, lines = heading.mode in JOB_OBJECTS, heading.mode is Mode.LINES
    for place, text in enumerate(_parts(heading, body, limit_bytes)):
        if place == limit:
            raise JobTooLarge(f"the body has more than the maximum of {counted(limit, 'job')}")
        try:
            if objects:
                job = job_object(text)
                _check_size(job.content, limit_bytes)
                item = (
                    Item(new_id(), job.content, stamp.expires_s)
                    if raw
                    else wrapping.wrap(job.content, job.content_type, job_id=new_id())
                )
                yield _due(item, job, stamp)
                continue
            _check_size(text, limit_bytes)
            if lines:
                yield wrapping.wrap(text, JSON_TYPE, job_id=new_id())
            else:
                yield wrap_event(text, job_id=new_id(), stamp=stamp)
        except (BadRequest, JobTooLarge) as exc:
            yield exc


def _due(item: Item, job: JobObject, stamp: EnqueueContext) -> Item:
    """The item with the job's own delay. Raises InvalidBody."""
    if job.delay_s is None and job.at is None:
        return item
    try:
        return item._replace(due_ms=due_ms(job.delay_s, job.at, stamp.now_s) or 0)
    except ValueError as exc:
        raise InvalidBody(str(exc)) from exc


def _check_charset(heading: Heading) -> None:
    """JSON is UTF-8 (RFC 8259, section 8.1). Raises UnsupportedType if the Content-Type names another charset."""
    content_type = heading.content_type or ""
    if fault := charset_fault(content_type, is_json=heading.mode in LINES):
        raise UnsupportedType(f"Content-Type: {fault}")


def _check_size(job: bytes, limit_bytes: int) -> None:
    if len(job) > limit_bytes:
        raise JobTooLarge(f"the job has {counted(len(job), 'byte')}, which is above the maximum of {limit_bytes}")


def _parts(heading: Heading, body: bytes, limit_bytes: int) -> Iterator[bytes]:
    body = body.removeprefix(BOM)
    if heading.mode in LINES:
        yield from _lines(body)
        return
    form = "a JSON array"
    if heading.mode is Mode.JOBS:
        form = 'a JSON object with one member, "jobs", whose value is an array'
        body = jobs_of(body)
        limit_bytes = limit_bytes * _MOST_ESCAPED + _FRAME
    try:
        yield from elements(body, limit_bytes)
    except ElementTooLarge as exc:
        raise JobTooLarge(
            f"job {exc.place} of the batch is above the maximum of {counted(limit_bytes, 'byte')}"
        ) from exc
    except ValueError as exc:
        raise InvalidBody(f"the body is not {form}: {exc}") from exc


def _lines(body: bytes) -> Iterator[bytes]:
    """The lines that are not blank, stripped of white space."""
    at = 0
    while at < len(body):
        start = at
        if body[at] <= _SPACE:
            blank = _BLANK.match(body, at, at + MAX_BLANK + 1)
            assert blank is not None
            start = blank.end()
            _check_blank(at, start)
        end = body.find(b"\n", start)
        at = end + 1 if end >= 0 else len(body)
        text = body[start:at].rstrip(b" \t\r\n")
        _check_blank(start + len(text), at)
        if text:
            yield text


def _check_blank(start: int, end: int) -> None:
    """Raises InvalidBody if the white space between these places of a body of lines is above the limit."""
    if end - start > MAX_BLANK:
        raise InvalidBody(f"more than {MAX_BLANK} bytes of white space and empty lines in a row at byte {start}")


@lru_cache(maxsize=256)
def _read_type(value: bytes) -> tuple[str | None, Mode]:
    content_type = value.decode("latin-1").strip()
    if not content_type:
        return None, Mode.PLAIN
    if not is_media_type(content_type):
        raise InvalidParameter(f"Content-Type: {media_type_fault(content_type)}")
    return content_type, _mode(essence(content_type))


def _mode(media_type: str) -> Mode:
    if media_type == STRUCTURED_TYPE:
        return Mode.STRUCTURED
    if media_type == BATCH_TYPE:
        return Mode.BATCH
    if is_lines_type(media_type):
        return Mode.LINES
    return Mode.UNREAD if is_unread_type(media_type) else Mode.PLAIN


def _instead(content_type: str) -> str:
    """What to send instead of an unsupported format."""
    shown = f"Content-Type: {content_type[:80]!r} is not supported"
    if content_type.lower().startswith("application/cloudevents"):
        return f"{shown}; send an event as {STRUCTURED_TYPE}, or several as {BATCH_TYPE}"
    return f"{shown}; send many jobs as {LINES_TYPE}, one JSON text on each line"


def _set_attributes(heading: Heading, headers: list[tuple[bytes, bytes]]) -> None:
    if len(headers) > MAX_ATTRIBUTES:
        raise InvalidEvent(f"the event has {len(headers)} attributes, which is above the maximum of {MAX_ATTRIBUTES}")
    for raw_name, raw in headers:
        name = raw_name.decode("latin-1")
        if name in heading.attributes:
            raise InvalidEvent(f"the header ce-{name[:80]} is given twice; send it once")
        heading.attributes[name] = from_header(name[:80], raw)
    stated = heading.attributes.pop("datacontenttype", None)
    if stated is None:
        return
    if not is_media_type(stated):
        raise InvalidEvent(f"datacontenttype: {stated[:80]!r} is not a media type, such as text/plain")
    if fault := charset_fault(stated):
        raise InvalidEvent(f"datacontenttype: {fault}")
    if heading.content_type is None:
        heading.content_type = stated
    elif contradict(heading.content_type, stated):
        raise InvalidEvent(
            f"datacontenttype: {stated[:80]!r} contradicts the Content-Type, {heading.content_type[:80]!r}; "
            "leave out the header ce-datacontenttype"
        )


def _set_trace(heading: Heading, parent: bytes, state: bytes) -> None:
    text = parent.decode("latin-1").strip()
    if is_traceparent(text):
        heading.traceparent = text
        text = state.decode("latin-1").strip()
        heading.tracestate = text if is_tracestate(text) else ""
