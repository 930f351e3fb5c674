"""Reading the envelope: a stored item is one CloudEvents 1.0 JSON object, or raw bytes of another program. Pure.

1. The payload is cut out with its original bytes: numbers, key order and white space stay.
2. Every item on a queue can be opened: an item that is not an envelope is a raw item, delivered byte for byte.
3. The gateway's own extensions are used only if they are plausible; `tenant` is never used.

Source: CloudEvents 1.0 JSON format, sections 2.2, 2.4 and 3.1.1. gateway/envelope/write.py writes what is read here.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson

from gateway.envelope.attributes import PARTITION_KEY, PAYLOAD, take_payload
from gateway.envelope.json_text import check_json, has_surrogates, load_string, members
from gateway.envelope.media import BYTES_TYPE, JSON_TYPE, is_json_type, payload_type
from gateway.envelope.times import instant

MAX_ATTEMPT = 1_000_000
MAX_READ: Final = 1000
"""Attributes of an envelope. An item with more, which the gateway never writes, is a raw item."""
MAX_HEAD_BYTES: Final = 65536
"""The latest position of the payload in an envelope that can be read by cutting it once."""

_TYPES: Final = (str, int)
_UNTYPED_OWN = frozenset({"tenant", "attempt", "enqueued", "readytime", "expires", "lasterror"})
_PLACED = frozenset({"specversion", "id", "datacontenttype", "enqueued"})
_SPACED_NAME = re.compile(rb'"[ \t\r\n]+:')
_PLAIN = re.compile(
    rb'\{"specversion":"1\.0","id":"(@+)","source":"(@+)","type":"(@+)","time":"(@+)","enqueued":"(@+)",'
    rb'"attempt":([1-9][0-9]{0,5}),(?:"tenant":"@*",)?"datacontenttype":"(@+)","data":'.replace(b"@", rb"[ !#-[\]-~]")
)
"""A string has only ASCII without escapes, so that its bytes are its characters."""
_OBJECT = re.compile(rb"[ \t\r\n]*\{")


class Job(NamedTuple):
    """One job as its consumer sees it.

    id: None for raw items. event: the stored attributes without `attempt` and `tenant`; empty for raw items.
    content_type: of the payload; not a JSON type if there is no payload.
    member: the name of the payload in JSON answers, `data` or `data_base64`; empty if there is none.
    stored: the value of that member, as JSON text; of a raw item its own bytes, since most are delivered as they are.
    attempt: 1 for the first delivery.
    enqueued_at: RFC 3339, in UTC if the gateway stored the job; None if unknown.
    expires_s: wall time; None: never.
    ready_s: since when it waits, if it was delayed or was a dead letter, wall time; None: since its enqueue.

    A tuple, because every delivery makes one: a frozen dataclass takes three times as long.
    """

    id: str | None
    event: Mapping[str, str | int | bool]
    content_type: str
    member: str
    stored: bytes
    attempt: int = 1
    enqueued_at: str | None = None
    expires_s: float | None = None
    ready_s: float | None = None

    @property
    def payload(self) -> bytes:
        """The value of `member`, as JSON text."""
        return self.stored if self.id is not None else b'"%b"' % base64.b64encode(self.stored)

    @property
    def attributes(self) -> dict[str, str | int | bool]:
        """The attributes without a member of their own in the JSON answer."""
        return {name: value for name, value in self.event.items() if name not in _PLACED}

    @property
    def ordered(self) -> bool:
        """Whether it has a partition key, so that its order with other jobs matters."""
        return PARTITION_KEY in self.event


def unwrap(item: bytes) -> Job:
    """The job in a stored item. Never raises: an item that is not an envelope is a raw item."""
    if (job := _plain(item)) is not None:
        return job
    if _OBJECT.match(item):
        event = _split(item) or _scan(item)
        if event is not None:
            return _job(*event)
    return raw(item)


def raw(item: bytes, content_type: str = BYTES_TYPE) -> Job:
    """The job whose body is the item itself."""
    return Job(None, {}, content_type, "data_base64", item)


def body_of(job: Job) -> bytes:
    """The job's own bytes, as its producer sent them."""
    if not job.member:
        return b""
    if job.id is None:
        return job.stored
    if job.member == "data_base64":
        return base64.b64decode(orjson.loads(job.payload))
    if is_json_type(job.content_type):
        return job.payload
    text: str = orjson.loads(job.payload)
    return text.encode()


def _plain(item: bytes) -> Job | None:
    """The job in an envelope that the gateway has written, if it has JSON and no attributes of its own; None: read it
    in another way. Most are like this, and so they take half the time.

    If what follows such a head is one JSON value, the item is an object with these members and no other.
    """
    head = _PLAIN.match(item)
    if head is None or item[-1:] != b"}":
        return None
    id_, source, type_, time, enqueued, attempt, content_type = head.group(1, 2, 3, 4, 5, 6, 7)
    named, enqueued_at, payload = content_type.decode(), enqueued.decode(), item[head.end() : -1]
    try:
        instant(enqueued_at)
        check_json(payload)
    except ValueError:
        return None
    if not is_json_type(named):
        return None
    job_id = id_.decode()
    event: dict[str, str | int | bool] = {
        "specversion": "1.0",
        "id": job_id,
        "source": source.decode(),
        "type": type_.decode(),
        "time": time.decode(),
        "enqueued": enqueued_at,
        "datacontenttype": named,
    }
    return Job(job_id, event, named, "data", payload, int(attempt), enqueued_at)


_Event = tuple[dict[str, Any], str, bytes]


def _split(item: bytes) -> _Event | None:
    """An envelope whose payload is its last member, as the gateway writes it: cut once, without scanning the payload.

    The cut is right because both parts are checked: if `{attributes}` and `payload` are JSON, the item is the object
    with those attributes and this one further member.
    """
    for member in ("data", "data_base64"):
        mark = b',"%b":' % member.encode()
        cut = item.find(mark, 0, MAX_HEAD_BYTES)
        if cut < 0 or item[-1:] != b"}" or item.count(b'":', 0, cut) > MAX_READ:
            continue
        head, payload = item[:cut], item[cut + len(mark) : -1]
        try:
            attributes = orjson.loads(head + b"}")
            check_json(payload)
        except ValueError:
            continue
        perhaps_repeated = head.count(b'":') != len(attributes) or _SPACED_NAME.search(head)
        if perhaps_repeated and members(head + b"}") is None:
            return None
        return _event(attributes, member, payload)
    return None


def _scan(item: bytes) -> _Event | None:
    """An envelope with any order of members and any spacing."""
    try:
        found = members(item, MAX_READ + len(PAYLOAD))
        if found is None:
            return None
        member, payload = take_payload(found)
        "".join(found).encode()  # a name with a lone surrogate has no UTF-8 form and could not be shown
    except ValueError:
        return None
    attributes: dict[str, Any] = {}
    for name, value in found.items():
        if value[:1] in (b"[", b"{"):
            if name not in _UNTYPED_OWN:
                return None
            continue
        try:
            attributes[name] = orjson.loads(value)
        except ValueError:
            if name not in _UNTYPED_OWN:
                return None
    return _event(attributes, member, payload)


def _event(attributes: dict[str, Any], member: str, payload: bytes) -> _Event | None:
    """The event; None if it violates the rules. Attributes that are null are left out."""
    if attributes.get("specversion") != "1.0" or "data" in attributes or "data_base64" in attributes:
        return None
    for name in ("id", "source", "type"):
        value = attributes.get(name)
        if not isinstance(value, str) or not value:
            return None
    content_type = attributes.get("datacontenttype")
    if content_type is not None and not isinstance(content_type, str):
        return None
    unset = False
    for name, value in attributes.items():
        if not isinstance(value, _TYPES) and name not in _UNTYPED_OWN:
            if value is not None:
                return None
            unset = True
    if unset:
        attributes = {name: value for name, value in attributes.items() if value is not None}
    if member == "data_base64":
        fits = _is_base64(payload)
    else:
        fits = member == "" or is_json_type(content_type or JSON_TYPE) or _is_text(payload)
    return (attributes, member, payload) if fits else None


def _is_base64(payload: bytes) -> bool:
    try:
        base64.b64decode(load_string(payload), validate=True)
    except (ValueError, TypeError):
        return False
    return True


def _is_text(payload: bytes) -> bool:
    """Whether the payload, which is JSON, is a string with a UTF-8 form: a lone surrogate has none."""
    if payload[:1] == b'"' and not has_surrogates(payload):
        return True
    try:
        load_string(payload)
    except ValueError:
        return False
    return True


def _job(event: dict[str, Any], member: str, payload: bytes) -> Job:
    attempt = event.pop("attempt", 1)
    event.pop("tenant", None)
    enqueued_s = _instant(event, "enqueued")
    ready_s = _instant(event, "readytime")
    expires_s = _instant(event, "expires")
    if not isinstance(event.get("lasterror", ""), str):
        del event["lasterror"]
    if enqueued_s is not None:
        enqueued_at: str | None = event["enqueued"]
    else:
        enqueued_at = event.get("time") if _instant(dict(event), "time") is not None else None
    return Job(
        id=event["id"],
        event=event,
        content_type=payload_type(event.get("datacontenttype"), member),
        member=member,
        stored=payload,
        attempt=attempt if type(attempt) is int and 1 <= attempt <= MAX_ATTEMPT else 1,
        enqueued_at=enqueued_at,
        expires_s=expires_s,
        ready_s=ready_s,
    )


def _instant(event: dict[str, Any], name: str) -> float | None:
    """The instant in the attribute; an attribute without a valid instant is removed."""
    text = event.get(name)
    if isinstance(text, str):
        try:
            return instant(text)
        except ValueError:
            pass
    event.pop(name, None)
    return None
