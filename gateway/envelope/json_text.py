"""JSON as bytes: whether a text is JSON, and where an object's members are. Never re-serializes anything.

1. No objects are built from a text longer than SMALL_BYTES: a parser that builds objects blocks the event loop for tens
   of milliseconds per MiB, msgspec's scan for about two.
2. A text is scanned once for UTF-8 and once for its grammar, so the time is linear in its length.

This module handles what msgspec leaves open: it accepts strings that are not UTF-8, refuses lone surrogate escapes,
which RFC 8259 allows, and its depth limit depends on the version of Python. Source: msgspec 0.22, tested.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from itertools import accumulate
from json.decoder import JSONDecoder
from typing import Any, Final, NoReturn

import msgspec
import orjson

from gateway.common.counted import counted

BOM: Final = b"\xef\xbb\xbf"
"""The byte-order mark that some editors write before UTF-8. JSON does not allow it (RFC 8259, section 8.1)."""

MAX_DEPTH: Final = 500
"""Levels of arrays and objects that are always accepted."""
_LIMIT: Final = 1024
"""The most levels that are accepted. Source: orjson's own limit. The standard reader has none from Python 3.12 on."""
SMALL_BYTES: Final = 8192
MAX_BLANK: Final = 65536
"""Bytes of white space in a row between the elements of an array."""

_TOO_DEEP = f"nested too deeply; up to {MAX_DEPTH} levels are always accepted"
_BLANK: Final = re.compile(rb"[ \t\n\r]*+")
_STRING: Final = re.compile(rb'"[^"\\\x00-\x1f]*+"')
_SCALAR: Final = re.compile(
    rb'(?:"[^"\\\x00-\x1f]*+"|true|false|null|-?(?:0|[1-9][0-9]*+)(?![.0-9eE]))[ \t\n\r]{0,64}(?=[,}])'
)
_QUOTE: Final = re.compile(rb'[ \t\n\r]*+"')
# The byte after the one that follows the value and white space.
_TRAILING: Final = re.compile(r"trailing characters \(byte ([0-9]+)\)")
_TRUNCATED: Final = "truncated"
_PLACE: Final = re.compile(r"(?:JSON is malformed: )?(.*?)(?: \(byte ([0-9]+)\))?")
_SCAN: Final = msgspec.json.Decoder(msgspec.Raw)


class NestedTooDeeply(ValueError):
    """It has more levels than the parsers read, so it is unknown whether it is JSON."""

    def __init__(self) -> None:
        super().__init__(_TOO_DEEP)


class TooManyMembers(ValueError):
    """The object has more members than the limit."""


class RepeatedMember(ValueError):
    """An object has two members with one name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the member {name[:80]!r} is given more than once; send it once")


class ElementTooLarge(ValueError):
    """An element of the array is longer than the limit. place: counted from 1."""

    def __init__(self, place: int) -> None:
        self.place = place
        super().__init__(f"element {place} is too large")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


# Numbers are only recognized, never converted: a double cannot hold 1e400, and int() not five thousand digits.
_STRICT = JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse, strict=True)


def _unique(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise RepeatedMember(name)
        seen.add(name)


_UNIQUE: Final = JSONDecoder(object_pairs_hook=_unique, parse_int=str, parse_float=str)

_ENDLESS: Final = 1 << 16
"""Levels that msgspec reads if only the size of the stack limits it, as from Python 3.14 on."""


def _spare_levels() -> int:
    """How many more levels than _LIMIT msgspec reads on this version of Python."""
    low, high = 1, _ENDLESS
    while low < high:
        middle = (low + high + 1) // 2
        try:
            _SCAN.decode(b"[" * middle + b"]" * middle)
            low = middle
        except RecursionError:
            high = middle - 1
    return max(0, low - _LIMIT)


_SPARE: Final = _spare_levels()


def check_json(text: bytes | memoryview) -> None:
    """Returns if `text` is one JSON value in UTF-8 (RFC 8259). Numbers of any size and lone surrogate escapes are
    valid.

    Raises:
        ValueError: it is not; the message says where. NestedTooDeeply: it has more than MAX_DEPTH levels and may be.
    """
    if len(text) > SMALL_BYTES:
        _check_large(bytes(text))
        return
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if error.msg.startswith("depth limit"):
            raise NestedTooDeeply from error
        try:
            decoded = bytes(text).decode()
            if decoded.startswith("\ufeff"):
                raise
            _STRICT.decode(decoded)
            _check_depth(decoded)
        except UnicodeDecodeError as exc:
            raise ValueError(f"not UTF-8 at byte {exc.start}") from exc
        except RecursionError as exc:
            raise NestedTooDeeply from exc
        except json.JSONDecodeError as exc:
            raise ValueError(f"{exc.msg} at character {exc.pos}") from exc


def has_more_values(text: bytes, limit: int) -> bool:
    """Whether a JSON text has more than about `limit` values. Does not parse it; characters in strings count, too."""
    if text.count(b",") + text.count(b"[") + text.count(b"{") <= limit:
        return False
    bare = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    if bare.count(b'"') > 4 * limit:
        return True
    outside = b"".join(bare.split(b'"')[::2])
    return outside.count(b",") + outside.count(b"[") + outside.count(b"{") > limit


def load_lenient(text: bytes) -> Any:
    """The value of a JSON text. Skips one leading byte-order mark. A lone surrogate, as in a string that was cut in the
    middle of an emoji, becomes a question mark.

    Raises:
        ValueError: it is not JSON. NestedTooDeeply: it has more levels than orjson reads, and may be.
    """
    text = text.removeprefix(BOM)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        try:
            text.decode()
        except UnicodeDecodeError as exc:
            raise ValueError(f"not UTF-8 at byte {exc.start}") from error
        if error.msg.startswith("depth limit"):
            raise NestedTooDeeply from error
        if b"\\u" not in text:
            raise
        with contextlib.suppress(ValueError, RecursionError):
            whole = json.dumps(json.loads(text.decode()), ensure_ascii=False)
            return orjson.loads(whole.encode(errors="replace"))
        raise


def check_unique(text: bytes) -> None:
    """Returns if no object in a JSON text has two members with one name. Builds objects: for small texts.

    Raises: RepeatedMember. NestedTooDeeply: it has more levels than the standard reader reads.
    """
    if text.count(b":") > 1:
        try:
            _UNIQUE.decode(text.removeprefix(BOM).decode())
        except RecursionError as exc:
            raise NestedTooDeeply from exc


def load_string(text: bytes) -> str:
    """The value of the JSON string `text`. Raises ValueError if it is another value, or has a lone surrogate."""
    if not _QUOTE.match(text):
        raise ValueError("it is not a string")
    value: str = orjson.loads(text)
    return value


_LITERAL: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[^][{}"]+')
_LEVELS: Final = {"[": 1, "{": 1, "]": -1, "}": -1}


def _check_depth(text: str) -> None:
    """Raises NestedTooDeeply if `text`, which is JSON, has more than _LIMIT levels."""
    if text.count("[") + text.count("{") > _LIMIT:
        brackets = _LITERAL.sub("", text)
        if max(accumulate(map(_LEVELS.__getitem__, brackets)), default=0) > _LIMIT:
            raise NestedTooDeeply


def members(text: bytes, limit: int | None = None) -> dict[str, bytes] | None:
    """The members of a JSON object, each value with its original bytes; None if `text` is not such an object.

    A repeated name returns None, because readers disagree about which one counts. So may more than MAX_DEPTH levels.

    Raises: TooManyMembers: there are more than `limit`.
    """
    try:
        text.decode()
    except UnicodeDecodeError:
        return None
    for scannable in _readings(text):
        try:
            return _members(text, scannable, limit)
        except TooManyMembers:
            raise
        except (ValueError, RecursionError, IndexError):
            continue
    return None


def elements(text: bytes, limit_bytes: int) -> Iterator[bytes]:
    """The elements of a JSON array one by one, each with its original bytes. They may be nested more deeply than
    MAX_DEPTH, and contain bytes that are not UTF-8.

    Raises:
        ElementTooLarge: one is longer than `limit_bytes`; raised before it is read.
        ValueError: `text` is not such an array; raised when the reader reaches the error.
    """
    view = memoryview(text)
    at = _skip(text, 0)
    if text[at : at + 1] != b"[":
        raise ValueError("it does not begin with [")
    at = _skip(text, at + 1)
    more = text[at : at + 1] != b"]"
    place = 0
    while more:
        place += 1
        start = at
        end, at = _element(view, start, limit_bytes, place)
        yield text[start:end]
        at = _skip(text, at)
        if text[at : at + 1] == b",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] == b"]":
            more = False
        else:
            raise ValueError(f"no comma or ] at byte {at}" if at < len(text) else "it ends too early")
    if _skip(text, at + 1) != len(text):
        raise ValueError(f"unexpected bytes after the array at byte {at + 1}")


def _check_large(text: bytes) -> None:
    try:
        text.decode()
    except UnicodeDecodeError as exc:
        raise ValueError(f"not UTF-8 at byte {exc.start}") from exc
    said = ""
    for scannable in _readings(text):
        try:
            _scan(scannable)
            return
        except RecursionError as exc:
            raise NestedTooDeeply from exc
        except msgspec.DecodeError as exc:
            said = _said(exc)
    raise ValueError(said)


def _scan(text: bytes) -> None:
    """Raises msgspec.DecodeError if it is not JSON, RecursionError if it has more than about _LIMIT levels."""
    _SCAN.decode(text)
    if _SPARE + _LIMIT == _ENDLESS:
        _check_depth(text.decode("latin-1"))
    elif _SPARE and text.count(b"[") + text.count(b"{") > MAX_DEPTH:
        # It is one value, so brackets around it change only its depth.
        _SCAN.decode(b"%b%b%b" % (b"[" * _SPARE, text, b"]" * _SPARE))


def _readings(text: bytes) -> Iterator[bytes]:
    """The text, then a text of the same length that is JSON if this one is: without the escapes that msgspec
    refuses."""
    yield text
    if has_surrogates(text):
        yield _without_surrogates(text)


def has_surrogates(text: bytes) -> bool:
    """Whether a JSON text has escapes that may be lone surrogates."""
    return b"\\" in text and (b"\\ud" in text or b"\\uD" in text)  # the first is a hundred times as fast


def _without_surrogates(text: bytes) -> bytes:
    return text.replace(b"\\ud", b"\\u0").replace(b"\\uD", b"\\u0")


def _said(error: Exception, start: int = 0) -> str:
    if _TRUNCATED in str(error):
        return "it ends too early"
    said = _PLACE.fullmatch(str(error))
    what, byte = said.groups() if said is not None else (str(error), None)
    return f"{what} at byte {start + int(byte)}" if byte else what


def _members(text: bytes, scannable: bytes, limit: int | None) -> dict[str, bytes] | None:
    view = memoryview(scannable)
    found: dict[str, bytes] = {}
    at = _blank_end(text, 0)
    if text[at] != ord("{"):
        return None
    at = _blank_end(text, at + 1)
    if text[at] == ord("}"):
        return found if _blank_end(text, at + 1) == len(text) else None
    while True:
        name, at = _name(text, view, at)
        at = _blank_end(text, at)
        if name is None or name in found or text[at] != ord(":"):
            return None
        if len(found) == limit:
            raise TooManyMembers(f"there are more than {counted(limit, 'member')}")
        start = _blank_end(text, at + 1)
        scalar = _SCALAR.match(text, start)
        at = scalar.end() if scalar is not None else _value_end(view, start)
        found[name] = value = text[start:at].rstrip(b" \t\n\r")
        if scalar is None and len(value) > MAX_DEPTH and value[0] in b"[{":
            _scan(scannable[start : start + len(value)])
        if text[at] == ord("}"):
            return found if _blank_end(text, at + 1) == len(text) else None
        if text[at] != ord(","):
            return None
        at = _blank_end(text, at + 1)


def _name(text: bytes, view: memoryview, at: int) -> tuple[str | None, int]:
    """The string at this position and its end; None if there is none."""
    plain = _STRING.match(text, at)
    if plain is not None:
        return text[at + 1 : plain.end() - 1].decode(), plain.end()
    if text[at] != ord('"'):
        return None, at
    end = _value_end(view, at)
    written = text[at:end].rstrip(b" \t\n\r")
    name: str = _STRICT.decode(written.decode())
    return name, end


def _value_end(view: memoryview, at: int) -> int:
    """The position of the next token after the value at `at`; the end of the text if there is none.

    Raises: ValueError: there is no value at `at`. RecursionError.
    """
    try:
        _SCAN.decode(view[at:])
    except msgspec.DecodeError as exc:
        trailing = _TRAILING.search(str(exc))
        if trailing is None:
            raise ValueError(_said(exc)) from exc
        return at + int(trailing[1]) - 1
    return len(view)


def _element(view: memoryview, start: int, limit_bytes: int, place: int) -> tuple[int, int]:
    """The end of the element at `start`, and the position of the next token."""
    longest = view[start : start + limit_bytes + 1]
    size = len(longest)
    surrogates = False
    while True:
        window: bytes | memoryview = longest[:size]
        if surrogates:
            window = _without_surrogates(bytes(window))
        try:
            _SCAN.decode(window)
        except RecursionError as exc:
            raise NestedTooDeeply from exc
        except msgspec.DecodeError as exc:
            trailing = _TRAILING.search(str(exc))
            if trailing is not None:
                at = int(trailing[1]) - 1
                return start + len(bytes(longest[:at]).rstrip(b" \t\n\r")), start + at
            if not surrogates and has_surrogates(bytes(window)):
                surrogates, size = True, min(size, SMALL_BYTES)
            elif _TRUNCATED not in str(exc):
                raise ValueError(_said(exc, start)) from exc
            elif size < len(longest):
                size = min(4 * size, len(longest))  # what changes is copied: not more than the element needs
            elif start + size < len(view):
                raise ElementTooLarge(place) from exc
            else:
                raise ValueError(_said(exc)) from exc
        else:
            end = start + len(bytes(longest[:size]).rstrip(b" \t\n\r"))
            if size < len(longest):
                size = min(4 * size, len(longest))
            elif end <= start + limit_bytes:
                return end, start + size
            else:
                raise ElementTooLarge(place)


def _skip(text: bytes, at: int) -> int:
    """The end of the white space. Raises ValueError if there is more than MAX_BLANK of it."""
    found = _BLANK.match(text, at, at + MAX_BLANK + 1)
    assert found is not None
    if found.end() > at + MAX_BLANK:
        raise ValueError(f"more than {MAX_BLANK} bytes of white space at byte {at}")
    return found.end()


def _blank_end(text: bytes, at: int) -> int:
    found = _BLANK.match(text, at)
    assert found is not None
    return found.end()
