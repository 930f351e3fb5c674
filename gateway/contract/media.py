"""Media types: which mean JSON, which mean text in UTF-8, which can stand in a header. Pure."""

from __future__ import annotations

import re
from functools import lru_cache

MAX_LENGTH = 256
BYTES_TYPE = "application/octet-stream"
JSON_TYPE = "application/json"

_HEADER = re.compile(r"[!-~](?:[ -~\t]*[!-~])?")
# A token may hold `*` (RFC 9110, section 5.6.2), but a type that does is a range. Parameters may be sloppy, as many
# clients' are, but no comma: that would be a list.
_NAME = r"[!#$%&'+.^_`|~0-9A-Za-z-]+"
_MEDIA = re.compile(rf"{_NAME}/{_NAME}[ \t]*(?:;(?:[ !#-+\--~\t]|\"(?:[ !#-\[\]-~\t]|\\[ -~\t])*\")*)?")
_JSON = re.compile(r"[^;]*[/+]json\s*(?:;.*)?", re.IGNORECASE | re.DOTALL)
_TEXT = re.compile(
    r"\s*(?:text/[^;]*|application/(?:x-www-form-urlencoded|xml|[^;]*\+xml)\s*)(?:;.*)?", re.IGNORECASE | re.DOTALL
)
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
    charset = _CHARSET.search(content_type)
    return charset is None or charset[1].lower() in _UTF8


def fits_header(content_type: str) -> bool:
    """Whether the text can be a Content-Type header: printable ASCII, not too long."""
    return len(content_type) <= MAX_LENGTH and _HEADER.fullmatch(content_type) is not None


def is_media_type(content_type: str) -> bool:
    """Whether the text is one media type (RFC 9110, section 8.3.1) that fits a header: no range, no list."""
    return fits_header(content_type) and _MEDIA.fullmatch(content_type) is not None


def essence(content_type: str) -> str:
    """The type without its parameters, in lower case: `text/plain`."""
    return content_type.partition(";")[0].strip().lower()
