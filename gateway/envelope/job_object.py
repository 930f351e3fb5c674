"""A job as a JSON object in a request with many jobs: its payload in `data` or `data_base64`, its `content_type`, and
when it is due, in `delay` or `at`. Pure.

The object has the producer's part of the object that a consumer gets. JSON in `data` keeps its bytes. `null` counts as
absent; for `data` only if there is a `data_base64`, or if the type is not JSON.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Final

import orjson

from gateway.envelope.attributes import take_payload
from gateway.envelope.due import AN_INSTANT, LONGEST_DELAY_S
from gateway.envelope.json_text import TooManyMembers, load_string, members
from gateway.envelope.media import (
    BYTES_TYPE,
    JSON_TYPE,
    charset_fault,
    foreign_charset,
    is_json_type,
    is_media_type,
    media_type_fault,
)
from gateway.errors import InvalidBody

_MEMBERS: Final = ("data", "data_base64", "content_type", "delay", "at")
_BEGIN: Final = re.compile(rb'[ \t\r\n]*\{[ \t\r\n]*"jobs"[ \t\r\n]*:')
_END: Final = re.compile(rb"\}[ \t\r\n]*\Z")
_TAIL: Final = 1024
"""The last brace is searched in this many bytes."""


def jobs_of(body: bytes) -> bytes:
    """The array in `{"jobs": [...]}`, not validated. Raises InvalidBody if the body is anything else."""
    begin = _BEGIN.match(body)
    end = _END.search(body, max(0, len(body) - _TAIL))
    if begin is None or end is None:
        raise InvalidBody('the body is not a JSON object with one member, "jobs"')
    return body[begin.end() : end.start()]


@dataclass(frozen=True, slots=True)
class JobObject:
    """content: the payload's bytes. delay_s, at: as the object has them; None: it has none."""

    content: bytes
    content_type: str
    delay_s: float | None = None
    at: str | None = None


def job_object(text: bytes) -> JobObject:
    """The job in a JSON object. Raises InvalidBody."""
    try:
        found = members(text, 2 * len(_MEMBERS))
    except TooManyMembers:
        found = None
    if found is None:
        raise InvalidBody(
            f"a job must be one JSON object, without duplicate members; allowed are {', '.join(_MEMBERS)}"
        )
    try:
        member, payload = take_payload(found)
    except ValueError as exc:
        raise InvalidBody("a job has either data or data_base64, not both") from exc
    content_type = _type(found.pop("content_type", b"null"))
    delay_s, at = _delay(found.pop("delay", b"null")), _at(found.pop("at", b"null"))
    content, content_type = _payload(found, member, payload, content_type)
    return JobObject(content, content_type, delay_s, at)


def _payload(found: dict[str, bytes], member: str, payload: bytes, content_type: str) -> tuple[bytes, str]:
    """The payload's bytes and its type. found: the members that are left."""
    if found:
        raise InvalidBody(f"unknown member {next(iter(found))[:80]!r}; allowed are {', '.join(_MEMBERS)}")
    if member == "data_base64":
        return _decoded(payload), content_type or BYTES_TYPE
    if member == "data" and is_json_type(content_type or JSON_TYPE):
        return payload, content_type or JSON_TYPE
    if member == "data" and payload != b"null":
        if charset := foreign_charset(content_type):
            raise InvalidBody(
                f"content_type: the text in data is stored in UTF-8, not in {charset[:40]!r}; send the charset utf-8, "
                "or the encoded text in data_base64"
            )
        if not payload.startswith(b'"'):
            raise InvalidBody(
                f"data: the value must be a string, because the content_type {content_type[:80]!r} is not JSON"
            )
        return _text("data", payload).encode(), content_type
    raise InvalidBody("a job needs a payload in data (JSON, or a string of text) or in data_base64; both are missing")


def _delay(value: bytes) -> float | None:
    if value == b"null":
        return None
    try:
        delay_s = orjson.loads(value)
    except ValueError:
        delay_s = None
    if type(delay_s) not in (int, float) or not 0 <= delay_s <= LONGEST_DELAY_S:
        raise InvalidBody(
            f"delay: {value[:40].decode(errors='replace')} is not a number of seconds from 0 to {LONGEST_DELAY_S:.0f}"
        )
    return float(delay_s)


def _at(value: bytes) -> str | None:
    if value == b"null":
        return None
    try:
        return load_string(value)
    except ValueError as exc:
        raise InvalidBody(f"at: {value[:40].decode(errors='replace')} is not {AN_INSTANT}") from exc


def _type(value: bytes) -> str:
    """The content type; empty if there is none."""
    if value == b"null":
        return ""
    text = _text("content_type", value)
    if not is_media_type(text):
        raise InvalidBody(f"content_type: {media_type_fault(text)}")
    if fault := charset_fault(text):
        raise InvalidBody(f"content_type: {fault}")
    return text


def _text(name: str, value: bytes) -> str:
    try:
        return load_string(value)
    except ValueError as exc:
        raise InvalidBody(f"{name}: the value must be a string of valid Unicode") from exc


def _decoded(value: bytes) -> bytes:
    try:
        return base64.b64decode(load_string(value), validate=True)
    except ValueError as exc:
        raise InvalidBody("data_base64: the value is not a string of base64 with padding (RFC 4648)") from exc
