"""A request's ASGI scope. Pure."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from typing import Any

import httptools

from gateway.client_connection import EXTENSION, ClientConnection
from gateway.http.request_parser import RequestHead


def request_scope(
    head: RequestHead,
    *,
    server: tuple[str, int | None] | None,
    client: tuple[str, int] | None,
    scheme: str,
    state: Mapping[str, Any],
    connection: ClientConnection,
) -> dict[str, Any]:
    """The scope of one request. state: the lifespan's; each request gets a copy."""
    target = head.target
    if target.startswith(b"/"):
        raw_path, _, query = target.partition(b"?")
    else:
        parsed = httptools.parse_url(target)
        raw_path, query = parsed.path or b"/", parsed.query or b""
    path = raw_path.decode("ascii")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": head.version,
        "server": server,
        "client": client,
        "scheme": scheme,
        "method": head.method,
        "root_path": "",
        "path": urllib.parse.unquote(path) if "%" in path else path,
        "raw_path": raw_path,
        "query_string": query,
        "headers": head.headers,
        "state": dict(state),
        "extensions": {EXTENSION: connection},
    }
