"""Media types: which ones are JSON, which ones are text in UTF-8, which ones a header can hold. Pure."""

from __future__ import annotations

import re
from functools import lru_cache

from gateway.common.counted import counted

MAX_LENGTH = 256
BYTES_TYPE = "application/octet-stream"
JSON_TYPE = "application/json"
LINES_TYPE = "application/x-ndjson"
STRUCTURED_TYPE = "application/cloudevents+json"
BATCH_TYPE = "application/cloudevents-batch+json"

_HEADER = re.compile(r"[!-~](?:[ -~\t]*[!-~])?")
# A token may contain `*` (RFC 9110, section 5.6.2), but a type with `*` is a range. Parameters may be sloppy, as those
# of many clients are, but may not contain a comma, which would make a list.
_NAME = r"[!#$%&'+.^_`|~0-9A-Za-z-]+"
_MEDIA = re.compile(rf"{_NAME}/{_NAME}[ \t]*(?:;(?:[ !#-+\--~\t]|\"(?:[ !#-\[\]-~\t]|\\[ -~\t])*\")*)?")
_JSON = re.compile(r"[^;]*[/+]json\s*(?:;.*)?", re.IGNORECASE | re.DOTALL)
_TEXT = re.compile(
    r"\s*(?:text/[^;]*|application/(?:x-www-form-urlencoded|xml|[^;]*\+xml)\s*)(?:;.*)?", re.IGNORECASE | re.DOTALL
)
# One JSON text per line has no registered media type; libraries and servers use these names.
_LINES = re.compile(
    r"(?:application|text)/(?:x-)?(?:nd-?json|ldjson|jsonl|json-?lines|json-?stream)|application/stream\+json"
    r"|[^;]+\+(?:x-)?(?:ndjson|jsonl)"
)
# Many JSON texts, but not one per line: text sequences (RFC 7464), and concatenated texts.
_UNREAD = re.compile(r"[^;]+[/+](?:x-)?(?:json-seq|concatenated-json)")
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([^\s\";]+)", re.IGNORECASE)
_UTF8 = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})


def is_json_type(content_type: str) -> bool:
    """Whether the media type is JSON: `*/json` or `*/*+json`, and not too long."""
    return len(content_type) <= MAX_LENGTH and _is_json(content_type)


@lru_cache(maxsize=256)
def _is_json(content_type: str) -> bool:
    return _JSON.fullmatch(content_type) is not None


@lru_cache(maxsize=256)
def is_text_type(content_type: str) -> bool:
    """Whether the media type is text that should be UTF-8."""
    if _TEXT.fullmatch(content_type) is None:
        return False
    return not foreign_charset(content_type)


def is_lines_type(media_type: str) -> bool:
    """Whether the type, without parameters and in lower case, means one JSON text per line."""
    return _LINES.fullmatch(media_type) is not None


def is_unread_type(media_type: str) -> bool:
    """Whether the type, without parameters and in lower case, contains events or jobs in an unsupported format: an
    event format other than JSON, or many JSON texts that are not one per line.
    """
    return media_type.startswith("application/cloudevents") or _UNREAD.fullmatch(media_type) is not None


def payload_type(stated: str | None, member: str) -> str:
    """The type of an event's payload. stated: its `datacontenttype`. member: as in envelope.read.Job.

    Zero bytes are not JSON: without a payload the type is not a JSON type.
    Source: CloudEvents 1.0.2, section 3.1 (datacontenttype); its JSON format, section 3.1.
    """
    content_type = stated or (BYTES_TYPE if member == "data_base64" else JSON_TYPE)
    return BYTES_TYPE if not member and is_json_type(content_type) else content_type


def contradict(one: str, other: str) -> bool:
    """Whether two media types contradict each other: they differ, or a parameter has two values."""
    if essence(one) != essence(other):
        return True
    ours, theirs = _parameters(one), _parameters(other)
    return any(ours[name] != theirs[name] for name in ours.keys() & theirs.keys())


def _parameters(content_type: str) -> dict[str, str]:
    found = {}
    for each in content_type.split(";")[1:]:
        name, _, value = each.partition("=")
        found[name.strip().lower()] = value.strip().strip('"').lower()
    return found


def fits_header(content_type: str) -> bool:
    """Whether the text can be a Content-Type header: printable ASCII, not too long."""
    return len(content_type) <= MAX_LENGTH and _HEADER.fullmatch(content_type) is not None


def is_media_type(content_type: str) -> bool:
    """Whether the text is one media type (RFC 9110, section 8.3.1) that a header can hold: no range, no list."""
    return fits_header(content_type) and _MEDIA.fullmatch(content_type) is not None


def media_type_fault(text: str) -> str:
    """What is wrong with a text that is not a media type, and what to send."""
    if len(text) > MAX_LENGTH:
        return f"the media type has {counted(len(text), 'character')}, which is above the maximum of {MAX_LENGTH}"
    slash = "" if "/" in text else ": it has no slash"
    return f"{text[:80]!r} is not a media type{slash}; send one such as {JSON_TYPE}"


def foreign_charset(content_type: str) -> str:
    """The charset parameter of the type, if it is neither UTF-8 nor a subset of it; otherwise empty."""
    charset = _CHARSET.search(content_type)
    return charset[1] if charset is not None and charset[1].lower() not in _UTF8 else ""


def charset_fault(content_type: str, *, is_json: bool = False) -> str:
    """What is wrong with a type of JSON whose charset is not UTF-8 (RFC 8259, section 8.1); otherwise empty.

    is_json: the type has another name, but means JSON.
    """
    charset = foreign_charset(content_type)
    if not charset or not (is_json or is_json_type(content_type)):
        return ""
    return f"JSON in the charset {charset[:40]!r} is not supported; send it in UTF-8"


def essence(content_type: str) -> str:
    """The type without its parameters, in lower case: `text/plain`."""
    return content_type.partition(";")[0].strip().lower()
