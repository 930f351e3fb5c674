"""JSON as bytes: whether a text is JSON, and where the members of an object stand. Never re-serializes anything."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from itertools import accumulate
from json.decoder import JSONDecoder
from typing import Any, NoReturn

import orjson

BOM = b"\xef\xbb\xbf"
"""The byte-order mark that some editors write before UTF-8; no JSON text begins with it (RFC 8259, section 8.1)."""

MAX_DEPTH = 500
"""Levels of arrays and objects that are sure to be read."""
_LIMIT = 1024
"""Levels that are read at most. Source: orjson's own limit. The standard reader has none from Python 3.12 on."""

_BLANK = " \t\n\r"
_TOO_DEEP = f"nested too deeply: {MAX_DEPTH} levels are sure to be taken"


class NestedTooDeeply(ValueError):
    """Whether it is JSON nobody knows: it has more levels than the parsers read."""

    def __init__(self) -> None:
        super().__init__(_TOO_DEEP)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


# Numbers are only recognized, never converted: a double cannot hold 1e400, nor int() five thousand digits.
_STRICT = JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse, strict=True)


def check_json(text: bytes | memoryview) -> None:
    """Returns when `text` is one JSON value in UTF-8 (RFC 8259), of any number size and with lone surrogate escapes.

    Raises:
        ValueError: it is not; the message says where. NestedTooDeeply: it may be, but has more than MAX_DEPTH levels.
    """
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


def load_lenient(text: bytes) -> Any:
    """The value of a JSON text. One leading byte-order mark is passed over; a lone surrogate, as a string has that was
    cut between the two halves of an emoji, is a question mark.

    Raises:
        ValueError: it is not JSON.
    """
    text = text.removeprefix(BOM)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        if b"\\u" not in text:
            raise
        with contextlib.suppress(ValueError, RecursionError):
            whole = json.dumps(json.loads(text.decode()), ensure_ascii=False)
            return orjson.loads(whole.encode(errors="replace"))
        raise


_LITERAL = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[^][{}"]+')
_LEVELS = {"[": 1, "{": 1, "]": -1, "}": -1}


def _check_depth(text: str) -> None:
    """Raises NestedTooDeeply where `text`, which is JSON, has more than _LIMIT levels."""
    if text.count("[") + text.count("{") > _LIMIT:
        brackets = _LITERAL.sub("", text)
        if max(accumulate(map(_LEVELS.__getitem__, brackets)), default=0) > _LIMIT:
            raise NestedTooDeeply


def members(text: bytes) -> dict[str, bytes] | None:
    """The members of a JSON object, each value as the bytes it is written with; None when `text` is not such an object.

    A repeated name makes it None: readers disagree about which one counts. So may more than MAX_DEPTH levels.
    """
    try:
        source = text.decode()
        return _members(source)
    except (ValueError, RecursionError, IndexError):
        return None


def elements(text: bytes) -> Iterator[bytes]:
    """The elements of a JSON array, each as the bytes it is written with, one after the other.

    Raises:
        ValueError: `text` is not such an array; said when the reader comes to where it is broken.
    """
    try:
        yield from _elements(text.decode())
    except UnicodeDecodeError as exc:
        raise ValueError(f"not UTF-8 at byte {exc.start}") from exc
    except json.JSONDecodeError as exc:
        raise ValueError(f"{exc.msg} at character {exc.pos}") from exc
    except RecursionError as exc:
        raise NestedTooDeeply from exc
    except IndexError as exc:
        raise ValueError("it ends too early") from exc


def _elements(source: str) -> Iterator[bytes]:
    at = _skip(source, 0)
    if source[at] != "[":
        raise ValueError("it does not begin with [")
    at = _skip(source, at + 1)
    more = source[at] != "]"
    while more:
        start = at
        _, at = _value(source, start)
        yield source[start:at].encode()
        at = _skip(source, at)
        more = source[at] == ","
        if more:
            at = _skip(source, at + 1)
        elif source[at] != "]":
            raise ValueError(f"no comma or ] at character {at}")
    if _skip(source, at + 1) != len(source):
        raise ValueError(f"something follows the array at character {at + 1}")


def _members(source: str) -> dict[str, bytes] | None:
    found: dict[str, bytes] = {}
    at = _skip(source, 0)
    if source[at] != "{":
        return None
    at = _skip(source, at + 1)
    if source[at] == "}":
        return found if _skip(source, at + 1) == len(source) else None
    while True:
        name, at = _value(source, at)
        at = _skip(source, at)
        if not isinstance(name, str) or name in found or source[at] != ":":
            return None
        start = _skip(source, at + 1)
        _, at = _value(source, start)
        found[name] = source[start:at].encode()
        at = _skip(source, at)
        if source[at] == "}":
            return found if _skip(source, at + 1) == len(source) else None
        if source[at] != ",":
            return None
        at = _skip(source, at + 1)
        if source[at] != '"':
            return None


def _skip(source: str, at: int) -> int:
    while at < len(source) and source[at] in _BLANK:
        at += 1
    return at


def _value(source: str, at: int) -> tuple[Any, int]:
    value, end = _STRICT.raw_decode(source, at)
    _check_depth(source[at:end])
    return value, end
