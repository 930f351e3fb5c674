"""The scan of large JSON says of every text what parsers that build it say."""

from __future__ import annotations

import json

import orjson

from gateway.envelope.json_text import SMALL_BYTES, NestedTooDeeply, check_json, elements, members

BLANK = b" " * SMALL_BYTES
_STRICT = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=lambda each: 1 / 0, strict=True)
SEEDS = [
    b'{"a":[1,-0.5e+3,"\\ud83d\\ude00",true,null],"b":{}}',
    rb'["\ud800","\\ud800","\u00e9", "\"" ]',
    b"[1],[2]",
    b"[" * 600 + b"]" * 600,
    b'"\xc3\xa9"',
    b'"\xff"',
    b"\xef\xbb\xbf1",
    b"1e400 ",
]


def one(data: bytes) -> None:
    """As a small text and, with blanks before it, as a large one."""
    small = _is_json(data)
    for text in (data, BLANK + data):
        try:
            check_json(text)
            found = True
        except NestedTooDeeply:
            continue
        except ValueError:
            found = False
        assert found is small, f"{text[-200:]!r} is called {found}"
    whole = members(BLANK + data)
    if whole is not None:
        assert small
        assert all(_is_json(value) for value in whole.values())
    try:
        parts = list(elements(data, 200))
    except ValueError:
        return
    if small:
        assert all(_is_json(part) for part in parts)


def _is_json(text: bytes) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            decoded = text.decode()
            if decoded.startswith("\ufeff"):
                return False
            _STRICT.decode(decoded)
        except (ValueError, RecursionError, ZeroDivisionError):
            return False
    return True
