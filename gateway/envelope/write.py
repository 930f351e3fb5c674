"""Writing the envelope: the item bytes that store a job. Pure functions; gateway/envelope/read.py reads them.

1. The payload is the last member. JSON is in `data` with its own bytes, UTF-8 text is in `data` as a string, other
   bytes are in `data_base64`: a reader gets the same bytes back.
2. The gateway's own extensions are written only here. A producer's values for them are dropped, except `expires`.

Source: CloudEvents 1.0 JSON format, sections 2.4 and 3.1.1.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import orjson

from gateway.common.counted import counted
from gateway.envelope.attributes import (
    MAX_ATTRIBUTES,
    MAX_ATTRIBUTES_BYTES,
    PARTITION_KEY,
    PAYLOAD,
    Value,
    checked,
    take_payload,
)
from gateway.envelope.due import event_due_ms
from gateway.envelope.json_text import (
    BOM,
    MAX_DEPTH,
    NestedTooDeeply,
    TooManyMembers,
    check_json,
    load_string,
    members,
)
from gateway.envelope.media import BYTES_TYPE, JSON_TYPE, is_json_type, is_text_type, payload_type
from gateway.envelope.times import YEAR_10000_S, instant, timestamp
from gateway.envelope.trace import is_traceparent, is_tracestate
from gateway.errors import InvalidBody, InvalidEvent
from gateway.nonce import nonce

EVENT_TYPE = "kestrel-gateway.job"
_TRACE = ("traceparent", "tracestate")


@dataclass(frozen=True, slots=True)
class EnqueueContext:
    """What the gateway adds to jobs that are enqueued at one moment.

    source: for events without a source. now_s, expires_s: wall time; None: never. tenant: empty if the deployment has
    no tenants. traceparent, tracestate: valid or empty. partition_key: of events that have none; empty: none.
    """

    source: str
    now_s: float
    expires_s: float | None = None
    tenant: str = ""
    traceparent: str = ""
    tracestate: str = ""
    partition_key: str = ""


class Item(NamedTuple):
    """One job as it is put on a queue. expires_s: wall time; None: never.

    content_type: as its consumer will see it; set only for a job that is enqueued. due_ms: when it gets on its queue,
    Unix time in milliseconds; 0: now; None: as its request says, otherwise now.

    A tuple, because a request may have a thousand: a frozen dataclass takes three times as long.
    """

    id: str
    data: bytes
    expires_s: float | None = None
    content_type: str = BYTES_TYPE
    due_ms: int | None = None


def new_id() -> str:
    """A new, unique job id: 128 random bits in hex."""
    return nonce().hex()


def wrap(body: bytes, content_type: str | None, *, job_id: str, stamp: EnqueueContext) -> Item:
    """The item that stores `body`. `unwrap` returns the same bytes and the same type.

    One leading byte-order mark before JSON is dropped; it is not part of the JSON.

    content_type: as the producer sent it; None: JSON if the body is JSON, otherwise arbitrary bytes.

    Raises:
        InvalidBody: the type is JSON but the body is not.
    """
    content_type, member, payload = _payload(body, content_type)
    data = b'{"specversion":"1.0","id":"%b%b%b}' % (job_id.encode(), _after_id(stamp, content_type, member), payload)
    return Item(job_id, data, stamp.expires_s, content_type)


class Wrapping:
    """`wrap` for the jobs of one request: what they have in common is written once."""

    __slots__ = ("_after_id", "_stamp")

    def __init__(self, stamp: EnqueueContext) -> None:
        self._stamp = stamp
        self._after_id: dict[tuple[str, str], bytes] = {}

    def wrap(self, body: bytes, content_type: str | None, *, job_id: str) -> Item:
        """See the function `wrap`."""
        content_type, member, payload = _payload(body, content_type)
        after_id = self._after_id.get((content_type, member))
        if after_id is None:
            after_id = self._after_id[content_type, member] = _after_id(self._stamp, content_type, member)
        data = b'{"specversion":"1.0","id":"%b%b%b}' % (job_id.encode(), after_id, payload)
        return Item(job_id, data, self._stamp.expires_s, content_type)


def _after_id(stamp: EnqueueContext, content_type: str, member: str) -> bytes:
    """The envelope from the end of the id to the payload."""
    time = timestamp(stamp.now_s)
    return (
        f'","source":{_quote(stamp.source)},"type":"{EVENT_TYPE}","time":"{time}","enqueued":"{time}","attempt":1,'
        f'{_further(stamp)}"datacontenttype":{_quote(content_type)},"{member}":'
    ).encode()


def wrap_event(text: bytes, *, job_id: str, stamp: EnqueueContext) -> Item:
    """The item that stores an event in structured mode: its attributes, and its data with the original bytes.

    job_id: used if the event has no `id`.

    Raises:
        InvalidBody: it is not JSON. InvalidEvent: it is not a CloudEvent; the message says what is wrong.
    """
    try:
        found = members(text, MAX_ATTRIBUTES + len(PAYLOAD))
    except TooManyMembers as exc:
        raise InvalidEvent(f"the event has more than the maximum of {MAX_ATTRIBUTES} attributes") from exc
    if found is None:
        _refuse(text)
        raise InvalidEvent(
            f"the event must be one JSON object, without duplicate members, nested at most {MAX_DEPTH} levels"
        )
    try:
        member, payload = take_payload(found)
    except ValueError as exc:
        raise InvalidEvent(f"data: {exc}") from exc
    if len(found) > MAX_ATTRIBUTES:
        raise InvalidEvent(f"the event has {len(found)} attributes, which is above the maximum of {MAX_ATTRIBUTES}")
    written_bytes = sum(map(len, found)) + sum(map(len, found.values()))
    if written_bytes > MAX_ATTRIBUTES_BYTES:
        raise InvalidEvent(
            f"the attributes have {counted(written_bytes, 'byte')} in all, which is above the maximum of "
            f"{MAX_ATTRIBUTES_BYTES}"
        )
    attributes = checked({name: _load(name, value) for name, value in found.items()})
    content_type = attributes.get("datacontenttype")
    if payload == b"null" and isinstance(content_type, str) and not is_json_type(content_type):
        member, payload = "", b""  # JSON's null is not text: it counts as absent
    if member == "data_base64":
        _check_base64(payload, content_type)
    elif member and isinstance(content_type, str) and not is_json_type(content_type):
        if payload[:1] != b'"':
            raise InvalidEvent("data: the value must be a string, because datacontenttype is not JSON")
        _load("data", payload)
    return _item(attributes, member, payload, job_id, stamp)


def wrap_binary(
    attributes: Mapping[str, str], body: bytes, content_type: str | None, *, job_id: str, stamp: EnqueueContext
) -> Item:
    """The item that stores an event in binary mode: attributes from headers, data from the body. An empty body without
    a type or with a JSON type means an event without data.

    Raises:
        InvalidBody, InvalidEvent: as `wrap` and `wrap_event`.
    """
    found = checked(attributes)
    if not body and (content_type is None or is_json_type(content_type)):
        member, payload = "", b""
    else:
        content_type, member, payload = _payload(body, content_type)
    if content_type is not None:
        found["datacontenttype"] = content_type
    return _item(found, member, payload, job_id, stamp)


def _item(attributes: dict[str, Value], member: str, payload: bytes, job_id: str, stamp: EnqueueContext) -> Item:
    """The event with the gateway's extensions. Its own `expires` and valid trace stay if the context has none.

    Its `notbefore` is when it is due. It stays in the event, where it has no effect any more.
    """
    time = timestamp(stamp.now_s)
    content_type = attributes.pop("datacontenttype", None)
    expires = attributes.pop("expires", None)
    expires_s = stamp.expires_s
    if expires_s is None and isinstance(expires, str):
        expires_s = instant(expires)
        if expires_s <= stamp.now_s:
            raise InvalidEvent(f"expires: {expires} is in the past; send a future time")
        if expires_s >= YEAR_10000_S:
            raise InvalidEvent(f"expires: {expires} is after the year 9999 (in UTC)")
    not_before = attributes.get("notbefore")
    try:
        due = event_due_ms(not_before, stamp.now_s) if isinstance(not_before, str) else None
    except ValueError as exc:
        raise InvalidEvent(str(exc)) from exc
    trace = [attributes.pop(name, "") for name in _TRACE]
    parent, state = trace if isinstance(trace[0], str) and is_traceparent(trace[0]) else _trace(stamp)
    whole: dict[str, Value] = {"specversion": "1.0", "id": job_id, **attributes}
    whole.setdefault("time", time)
    whole |= {"enqueued": time, "attempt": 1}
    if stamp.tenant:
        whole["tenant"] = stamp.tenant
    if expires_s is not None:
        whole["expires"] = timestamp(expires_s)
    if parent:
        whole["traceparent"] = parent
        if isinstance(state, str) and is_tracestate(state):
            whole["tracestate"] = state
    if stamp.partition_key:
        whole.setdefault(PARTITION_KEY, stamp.partition_key)
    if content_type is not None:
        whole["datacontenttype"] = content_type
    data = orjson.dumps(whole)
    if member:
        data = b'%b,"%b":%b}' % (data[:-1], member.encode(), payload)
    shown_type = payload_type(content_type if isinstance(content_type, str) else None, member)
    return Item(str(whole["id"]), data, expires_s, shown_type, due)


def _trace(stamp: EnqueueContext) -> list[Value]:
    return [stamp.traceparent, stamp.tracestate]


def _further(stamp: EnqueueContext) -> str:
    """The extensions that most jobs do not have, as members that each end with a comma."""
    if not (stamp.tenant or stamp.expires_s is not None or stamp.traceparent or stamp.partition_key):
        return ""
    text = ""
    if stamp.tenant:
        text += f'"tenant":{_quote(stamp.tenant)},'
    if stamp.expires_s is not None:
        text += f'"expires":"{timestamp(stamp.expires_s)}",'
    if stamp.traceparent:
        text += f'"traceparent":"{stamp.traceparent}",'
        if stamp.tracestate:
            text += f'"tracestate":{orjson.dumps(stamp.tracestate).decode()},'
    if stamp.partition_key:
        text += f'"{PARTITION_KEY}":{orjson.dumps(stamp.partition_key).decode()},'
    return text


def _payload(body: bytes, content_type: str | None) -> tuple[str, str, bytes]:
    """The type to store, the name of the payload's member and its value."""
    if content_type is None:
        text = body.removeprefix(BOM)
        try:
            check_json(text)
        except ValueError:
            return BYTES_TYPE, "data_base64", _base64(body)
        return JSON_TYPE, "data", text
    if is_json_type(content_type):
        text = body.removeprefix(BOM)
        _refuse(text)
        return content_type, "data", text
    if is_text_type(content_type):
        try:
            return content_type, "data", orjson.dumps(body.decode())
        except UnicodeDecodeError:
            pass
    return content_type, "data_base64", _base64(body)


def _base64(body: bytes) -> bytes:
    return b'"%b"' % base64.b64encode(body)


def _refuse(text: bytes) -> None:
    """Returns if it is JSON. Raises InvalidBody."""
    try:
        check_json(text)
    except NestedTooDeeply as exc:
        raise InvalidBody(f"the body is {exc}") from exc
    except ValueError as exc:
        if not text.strip(b" \t\r\n"):
            raise InvalidBody("the body is empty, but its Content-Type is JSON") from exc
        raise InvalidBody(f"the job is not JSON, but its content type says that it is: {exc}") from exc


def _load(name: str, value: bytes) -> object:
    try:
        loaded: object = orjson.loads(value)
    except ValueError as exc:
        raise InvalidEvent(f"{name[:80]}: the value has a lone surrogate or a number that is too large") from exc
    return loaded


def _check_base64(payload: bytes, content_type: Value | None) -> None:
    try:
        data = base64.b64decode(load_string(payload), validate=True)
    except (ValueError, TypeError) as exc:
        raise InvalidEvent("data_base64: the value is not a string of base64 with padding (RFC 4648)") from exc
    if isinstance(content_type, str) and is_json_type(content_type):
        try:
            check_json(data)
        except ValueError as exc:
            raise InvalidEvent(
                f"data_base64: the value is not JSON, but datacontenttype says that it is: {exc}"
            ) from exc


@lru_cache(maxsize=256)
def _quote(text: str) -> str:
    return orjson.dumps(text).decode()
