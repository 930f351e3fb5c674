"""Heads that were read a short while ago, by their bytes: clients send the same few heads again and again.

A head with the same bytes has the same meaning, whoever sends it, so it is not parsed a second time. A head
that differs only in its request line, as every ack does, is not parsed either if that line is plain: then it, too, has
only one meaning.
Used for heads that arrive whole and are short, and whose body has a Content-Length or is empty.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.http.request_head import RequestHead

LONGEST: Final = 2048
"""Bytes of a head that is kept."""
MOST: Final = 256
"""Heads that are kept. Then all are forgotten."""
_PLAIN_LINE: Final = re.compile(
    rb"(GET|HEAD|POST|PUT|PATCH|DELETE) (/[A-Za-z0-9._~/+=,:@-]*)(?:\?([A-Za-z0-9._~/+=,:@&%-]*))? HTTP/1\.1"
)
"""A request line that llhttp accepts, whose path is not encoded. Source: RFC 3986, section 3.3 (pchar), without those
characters that are rare."""


class KnownHeads:
    """The heads of one server's connections. Each has the length of the body that follows it, in bytes."""

    __slots__ = ("_by_fields", "_heads")

    def __init__(self) -> None:
        self._heads: dict[bytes, tuple[RequestHead, int]] = {}
        self._by_fields: dict[bytes, tuple[RequestHead, int]] = {}

    def find(self, data: bytes) -> tuple[RequestHead, int] | None:
        """The head that has these bytes; None if it must be parsed."""
        found = self._heads.get(data)
        if found is not None:
            return found
        line, _, fields = data.partition(b"\r\n")
        like = self._by_fields.get(fields)
        plain = _PLAIN_LINE.fullmatch(line) if like is not None else None
        if like is None or plain is None:
            return None
        method, path, query = plain.groups(b"")
        head, body_length = like
        made = RequestHead(
            method.decode(),
            path,
            path.decode(),
            query,
            head.version,
            head.headers,
            head.names,
            head.keep_alive,
            head.continues,
            len(data),
        )
        return made, body_length

    def add(self, data: bytes, head: RequestHead, body_length: int) -> None:
        """Keeps the head that has these bytes, if it is short."""
        if len(data) > LONGEST:
            return
        if len(self._heads) >= MOST:
            self._heads.clear()
            self._by_fields.clear()
        self._heads[data] = head, body_length
        line, _, fields = data.partition(b"\r\n")
        if _PLAIN_LINE.fullmatch(line):  # only then the rest is a block of fields
            self._by_fields[fields] = head, body_length
