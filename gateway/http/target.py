"""A request's target, split into path and query. Pure."""

from __future__ import annotations

import urllib.parse

import httptools


def split_target(target: bytes) -> tuple[bytes, str, bytes]:
    """The path as received, the decoded path, and the query of a target in origin, absolute or asterisk form."""
    if target.startswith(b"/"):
        raw_path, _, query = target.partition(b"?")
    else:
        parsed = httptools.parse_url(target)
        raw_path, query = parsed.path or b"/", parsed.query or b""
    path = raw_path.decode("ascii")
    return raw_path, urllib.parse.unquote(path) if "%" in path else path, query
