"""A CloudEvent's attributes: as a producer may give them, and as HTTP headers carry them. Pure.

Source: CloudEvents 1.0.2, section 3 (attributes, type system); its HTTP binding, section 3.1.3.2 (header values).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from gateway.envelope.media import charset_fault, is_media_type
from gateway.envelope.times import instant
from gateway.errors import InvalidEvent

Value = str | int | bool

MAX_ATTRIBUTES: Final = 100
"""Attributes of an event that is enqueued. Each takes time whenever the event is enqueued, delivered or copied."""
MAX_ATTRIBUTES_BYTES: Final = 65536
"""Bytes of all attributes together, as they are written."""
PAYLOAD: Final = frozenset({"data", "data_base64"})
"""Members of an event that are not attributes."""
GATEWAYS_OWN = frozenset(
    {"tenant", "attempt", "enqueued", "readytime", "lasterror", "deadreason", "deadtime", "deadqueue", "deadattempts"}
)
"""Extensions that the gateway sets; values from others are ignored."""

PARTITION_KEY: Final = "partitionkey"
"""The extension that says which jobs are in order with each other. Source: CloudEvents' extension "Partitioning"."""

# CloudEvents 1.0, section 3.2: a String has no control characters, noncharacters or surrogates.
NOT_IN_STRINGS = "\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef" + "".join(
    chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF)
)
"""Characters that no attribute may contain, for the brackets of a pattern."""

_NAME = re.compile(r"[a-z0-9]{1,64}")
_FORBIDDEN = re.compile(f"[{NOT_IN_STRINGS}]")
_REFERENCE = re.compile(r"[^\s\ufeff<>\"{}|\\^`]+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_PLAIN = re.compile(rb"[!#$&-~]*")
_NOT_PLAIN = re.compile(rb"[^!#$&-~]")
_STRINGS = frozenset(
    {"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema", "expires", "notbefore"}
)


def checked(given: Mapping[str, object]) -> dict[str, Value]:
    """The attributes that are set, without the gateway's own; `id` and `time` may be missing.

    Raises:
        InvalidEvent: an attribute is missing or not allowed by CloudEvents; the message names it.
    """
    attributes: dict[str, Value] = {}
    for name, value in given.items():
        if name in GATEWAYS_OWN or value is None:
            continue
        if name == "data":
            raise InvalidEvent("`data` is reserved; it cannot be an attribute")
        if not _NAME.fullmatch(name):
            raise InvalidEvent(f"{name[:80]!r} is not a valid attribute name: use 1 to 64 characters of a-z and 0-9")
        attributes[name] = _value(name, value)
    for name in ("specversion", "source", "type"):
        if name not in attributes:
            raise InvalidEvent(f"the attribute `{name}` is missing")
    if attributes["specversion"] != "1.0":
        raise InvalidEvent('the attribute `specversion` must be "1.0"')
    return attributes


def take_payload(found: dict[str, bytes]) -> tuple[str, bytes]:
    """Removes the payload from an event's members; returns its member's name and value, both empty if there is none.

    `null` counts as missing; for `data` only if there is a `data_base64`, otherwise it is the JSON value.

    Raises:
        ValueError: there are two payloads.
    """
    if found.get("data_base64") == b"null":
        del found["data_base64"]
    if "data_base64" not in found:
        return ("data", found.pop("data")) if "data" in found else ("", b"")
    if found.pop("data", b"null") != b"null":
        raise ValueError("an event has either data or data_base64, not both")
    return "data_base64", found.pop("data_base64")


def is_name(name: str) -> bool:
    """Whether the name is valid for an attribute, and so for a header."""
    return _NAME.fullmatch(name) is not None


def to_header(value: Value) -> bytes:
    """The attribute's value for an HTTP header: percent-encoded, without bytes that a header cannot hold."""
    if isinstance(value, bool):
        return b"true" if value else b"false"
    raw = str(value).encode()
    if _PLAIN.fullmatch(raw):
        return raw
    return _NOT_PLAIN.sub(lambda found: b"%%%02X" % found[0][0], raw)


def from_header(name: str, raw: bytes) -> str:
    """The attribute's value from an HTTP header: unquoted, then percent-decoded.

    Raises:
        InvalidEvent: it is not UTF-8.
    """
    try:
        text = raw.strip(b" \t").decode()
        quoted = _QUOTED.fullmatch(text)
        if quoted is not None:
            # One pass for each; the marker character cannot occur in a header.
            text = quoted[1].replace("\\\\", "\0").replace("\\", "").replace("\0", "\\")
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError as exc:
        raise InvalidEvent(f"the header ce-{name} is not UTF-8") from exc


def _value(name: str, value: object) -> Value:
    if isinstance(value, str):
        _check_text(name, value)
        return value
    if name in _STRINGS:
        raise InvalidEvent(f"the attribute `{name}` must be a string")
    if isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 7.0 is the integer 7 (RFC 8259, section 6)
    if not isinstance(value, int) or not -(2**31) <= value < 2**31:
        raise InvalidEvent(f"the attribute `{name}` must be a string, a boolean or a 32-bit integer")
    return value


def _check_text(name: str, value: str) -> None:
    forbidden = _FORBIDDEN.search(value)
    if forbidden is not None:
        raise InvalidEvent(f"the attribute `{name}` contains {forbidden[0]!r}, which attributes cannot contain")
    if not value and name in _STRINGS:
        raise InvalidEvent(f"the attribute `{name}` is empty")
    if name in ("time", "expires", "notbefore"):
        try:
            instant(value)
        except ValueError as exc:
            raise InvalidEvent(
                f"{name}: {value[:80]!r} is not an RFC 3339 timestamp, such as 2026-01-31T12:00:00Z"
            ) from exc
    elif name in ("source", "dataschema") and not _REFERENCE.fullmatch(value):
        raise InvalidEvent(f"{name}: {value[:80]!r} is not a URI reference")
    elif name == "datacontenttype":
        if not is_media_type(value):
            raise InvalidEvent(f"{name}: {value[:80]!r} is not a media type, such as text/plain")
        if fault := charset_fault(value):
            raise InvalidEvent(f"{name}: {fault}")
