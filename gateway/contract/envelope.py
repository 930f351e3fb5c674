"""The envelope: a stored item is one CloudEvents 1.0 JSON object, or raw bytes of somebody else. Pure functions.

1. A JSON body stands in `data` by its own bytes and is cut out again: numbers, key order and white space stay.
2. Text that is UTF-8 stands in `data` as a string, anything else in `data_base64`; the bytes come back.
3. Whatever lies on a queue can be opened: what is not an envelope is a raw item, delivered byte for byte.

Source: CloudEvents 1.0 JSON format, sections 2.4 and 3.1.1.
"""

from __future__ import annotations

import base64
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from gateway.contract.json_text import check_json, members
from gateway.errors import InvalidBody

EVENT_TYPE = "kestrel-gateway.job"
BYTES_TYPE = "application/octet-stream"
MAX_ATTEMPT = 1_000_000

_JSON_TYPE = re.compile(r"[^;]*[/+]json\s*(?:;.*)?", re.IGNORECASE | re.DOTALL)
_TEXT_TYPE = re.compile(
    r"\s*(?:text/[^;]*|application/(?:x-www-form-urlencoded|xml|[^;]*\+xml)\s*)(?:;.*)?", re.IGNORECASE | re.DOTALL
)
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([^\s\";]+)", re.IGNORECASE)
_UTF8 = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
_OWN = frozenset({"specversion", "id", "datacontenttype", "attempt", "enqueued"})


@dataclass(frozen=True, slots=True)
class Job:
    """One job as its consumer sees it.

    member: the name its payload has in JSON answers, `data` or `data_base64`; empty where there is none.
    payload: that member's value, as JSON text.
    id, enqueued_at: None for raw items; enqueued_at is RFC 3339, UTC.
    attempt: 1 for the first delivery.
    attributes: the CloudEvents attributes that have no place of their own here.
    """

    id: str | None
    content_type: str
    member: str
    payload: bytes
    attempt: int
    enqueued_at: str | None
    attributes: Mapping[str, str | int | bool]


def new_id() -> str:
    """A job id nobody has used: 128 random bits in hex."""
    return os.urandom(16).hex()


def timestamp(wall_s: float) -> str:
    """RFC 3339 in UTC with milliseconds."""
    millis = int(wall_s * 1000)
    return f"{_second(millis // 1000)}.{millis % 1000:03d}Z"


@lru_cache(maxsize=64)
def _second(epoch_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(epoch_s))


def wrap(body: bytes, content_type: str | None, *, job_id: str, source: str, now_s: float) -> bytes:
    """The item that stores `body`; `unwrap` gives the same bytes and the same type back.

    content_type: as the producer sent it; None: JSON if the body is JSON, else bytes.

    Raises:
        InvalidBody: the type says JSON and the body is not.
    """
    if content_type is None:
        content_type, member, payload = _untyped(body)
    elif is_json_type(content_type):
        try:
            check_json(body)
        except ValueError as exc:
            raise InvalidBody(f"the body is not JSON although its Content-Type says so: {exc}") from exc
        member, payload = "data", body
    else:
        member, payload = _encode(body, content_type)
    stamp = timestamp(now_s)
    head = (
        f'{{"specversion":"1.0","id":"{job_id}","source":{_quote(source)},"type":"{EVENT_TYPE}","time":"{stamp}",'
        f'"enqueued":"{stamp}","attempt":1,"datacontenttype":{_quote(content_type)},"{member}":'
    )
    return b"%b%b}" % (head.encode(), payload)


def unwrap(item: bytes) -> Job:
    """The job in a stored item; never raises: what is not an envelope is a raw item."""
    if item[:1] == b"{":
        event = _split(item) or _scan(item)
        if event is not None:
            return _job(*event)
    return Job(
        id=None,
        content_type=BYTES_TYPE,
        member="data_base64",
        payload=b'"%b"' % base64.b64encode(item),
        attempt=1,
        enqueued_at=None,
        attributes={},
    )


def body_of(job: Job) -> bytes:
    """The job's own bytes, as its producer sent them."""
    if not job.member:
        return b""
    if job.member == "data_base64":
        return base64.b64decode(orjson.loads(job.payload))
    if is_json_type(job.content_type):
        return job.payload
    text: str = orjson.loads(job.payload)
    return text.encode()


@lru_cache(maxsize=256)
def is_json_type(content_type: str) -> bool:
    """Whether the media type is JSON: `*/json` or `*/*+json`."""
    return _JSON_TYPE.fullmatch(content_type) is not None


@lru_cache(maxsize=256)
def _is_text_type(content_type: str) -> bool:
    if _TEXT_TYPE.fullmatch(content_type) is None:
        return False
    charset = _CHARSET.search(content_type)
    return charset is None or charset[1].lower() in _UTF8


@lru_cache(maxsize=256)
def _quote(text: str) -> str:
    return orjson.dumps(text).decode()


def _untyped(body: bytes) -> tuple[str, str, bytes]:
    try:
        check_json(body)
    except ValueError:
        return BYTES_TYPE, *_encode(body, BYTES_TYPE)
    return "application/json", "data", body


def _encode(body: bytes, content_type: str) -> tuple[str, bytes]:
    if _is_text_type(content_type):
        try:
            return "data", orjson.dumps(body.decode())
        except UnicodeDecodeError:
            pass
    return "data_base64", b'"%b"' % base64.b64encode(body)


_Event = tuple[dict[str, Any], str, bytes]


def _split(item: bytes) -> _Event | None:
    """An envelope whose payload is its last member, as `wrap` writes it: cut once, no search through the payload.

    The cut is right because both halves are checked: `{attributes}` and `payload` being JSON, the item is the object
    that has those attributes and this one further member.
    """
    for member in ("data", "data_base64"):
        mark = b',"%b":' % member.encode()
        cut = item.find(mark)
        if cut < 0:
            continue
        payload = item[cut + len(mark) : -1]
        try:
            attributes = orjson.loads(item[:cut] + b"}")
            check_json(payload)
        except ValueError:
            continue
        if item[-1:] == b"}" and _is_event(attributes, member, payload):
            return attributes, member, payload
    return None


def _scan(item: bytes) -> _Event | None:
    """An envelope in any order and spacing."""
    found = members(item)
    if found is None or ("data" in found and "data_base64" in found):
        return None
    member = "data" if "data" in found else "data_base64" if "data_base64" in found else ""
    payload = found.pop(member, b"")
    try:
        attributes = {name: orjson.loads(value) for name, value in found.items()}
    except ValueError:
        return None
    return (attributes, member, payload) if _is_event(attributes, member, payload) else None


def _is_event(attributes: dict[str, Any], member: str, payload: bytes) -> bool:
    if attributes.get("specversion") != "1.0" or "data" in attributes or "data_base64" in attributes:
        return False
    if not all(isinstance(attributes.get(name), str) and attributes[name] for name in ("id", "source", "type")):
        return False
    if not all(isinstance(value, str | int | bool) for value in attributes.values()):
        return False
    content_type = attributes.get("datacontenttype", "application/json")
    if not isinstance(content_type, str):
        return False
    if member == "data_base64":
        return _is_base64(payload)
    return member == "" or is_json_type(content_type) or payload[:1] == b'"'


def _is_base64(payload: bytes) -> bool:
    try:
        base64.b64decode(orjson.loads(payload), validate=True)
    except (ValueError, TypeError):
        return False
    return True


def _job(attributes: dict[str, Any], member: str, payload: bytes) -> Job:
    attempt = attributes.get("attempt")
    enqueued = attributes.get("enqueued", attributes.get("time"))
    default_type = BYTES_TYPE if member == "data_base64" else "application/json"
    return Job(
        id=attributes["id"],
        content_type=attributes.get("datacontenttype", default_type),
        member=member,
        payload=payload,
        attempt=attempt if type(attempt) is int and 1 <= attempt <= MAX_ATTEMPT else 1,
        enqueued_at=enqueued if isinstance(enqueued, str) else None,
        attributes={name: value for name, value in attributes.items() if name not in _OWN},
    )
