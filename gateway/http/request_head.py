"""The head of a request, as it was parsed. A pure value."""

from __future__ import annotations

from typing import NamedTuple

from gateway.request import Headers


class RequestHead(NamedTuple):
    """A request's head. raw_path, query: as received; path: decoded. headers: names in lower case; names: their names.

    continues: whether the client waits for a 100 before its body. size: in bytes, as received.

    Requests with the same head share it, and those with the same headers share these, so nothing may change them. A
    tuple, because it is made for most requests: a frozen dataclass takes three times as long.
    """

    method: str
    raw_path: bytes
    path: str
    query: bytes
    version: str
    headers: Headers
    names: set[bytes]
    keep_alive: bool
    continues: bool
    size: int
