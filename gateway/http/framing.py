"""Where one HTTP/1.1 message ends, and which heads are too ambiguous to serve. Sans-I/O: bytes in, values out.

llhttp, the parser, is strict about line ends, header characters and lengths; this module refuses what it lets pass.
Source: RFC 9112 sections 2.3, 3.2, 6.1, 6.3, 11.2; tried against httptools 0.9.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.errors import BadFraming

CHUNKED: Final = -1
BLANK_LINE: Final = b"\r\n\r\n"
OWS: Final = b" \t"
"""What may stand on both sides of a field's value and is no part of it (RFC 9110, section 5.5); llhttp leaves it at the
end. Every value loses it where it is read, so that no reader behind has to."""

# Headers that decide how a request is read.
FRAMING_HEADERS: Final = frozenset({b"content-length", b"transfer-encoding", b"host", b"expect"})


# Source: RFC 9110 section 9 and RFC 5789: the methods a client may pipeline. Others are no start of a request here.
_METHODS: Final = (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"CONNECT")
_VERSION: Final = re.compile(rb" HTTP/[0-9.]+\Z")


def begins_request(data: bytes) -> bool:
    """Whether these bytes, however few, can be the beginning of a request, also of a malformed one.

    Blank lines before it are allowed. A complete first line must end with a version of HTTP.
    """
    line, end, _ = data.lstrip(b"\r\n").partition(b"\r\n")
    method, space, _ = line.partition(b" ")
    if not space:
        return not end and any(each.startswith(method) for each in _METHODS)
    return method in _METHODS and (not end or _VERSION.search(line) is not None)


def framing(version: str, target: bytes, headers: list[tuple[bytes, bytes]]) -> tuple[int, bool]:
    """How to read the request with these framing headers (lower-case names from FRAMING_HEADERS, values without OWS):
    the body's length in bytes, or CHUNKED, and whether the client waits for a 100 before it sends the body.

    Raises BadFraming for what two readers could understand in two ways.
    """
    if version not in ("1.1", "1.0"):
        raise BadFraming(f"HTTP/{version} is not spoken here, HTTP/1.1 is")
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise BadFraming(f"one Host header is needed, {len(hosts)} came")
    _check_target(target, hosts[0] if hosts else b"")
    return _body(version, headers) if len(headers) > len(hosts) else (0, False)


def _check_target(target: bytes, host: bytes) -> None:
    if b"#" in target:
        raise BadFraming("a request target has no fragment")
    if not target.startswith((b"/", b"*")):
        # Absolute form: its authority replaces Host (RFC 9112 section 3.2.2), so the two must not differ.
        authority = target.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0]
        if authority.lower() != host.lower():
            raise BadFraming("the request target names another host than the Host header")


def _body(version: str, headers: list[tuple[bytes, bytes]]) -> tuple[int, bool]:
    lengths = [value for name, value in headers if name == b"content-length"]
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    continues = any(name == b"expect" and value.lower() == b"100-continue" for name, value in headers)
    if codings:
        if lengths or len(codings) > 1 or codings[0].lower() != b"chunked":
            raise BadFraming("the one Transfer-Encoding served is chunked, without a Content-Length")
        if version == "1.0":
            raise BadFraming("HTTP/1.0 has no Transfer-Encoding")
        return CHUNKED, continues
    if len(lengths) > 1:
        raise BadFraming("one Content-Length is allowed")
    return int(lengths[0]) if lengths else 0, continues and version == "1.1"


class BlankLine:
    """Finds the end of the next CRLF CRLF in a stream of pieces, also where it lies across two of them.

    Every head ends with one, and so does every chunked body (its last chunk, its trailers).
    """

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b""

    def end_in(self, piece: bytes) -> int:
        """How many bytes of `piece` reach up to the blank line's end; 0 when it does not end in there."""
        tail = self._tail
        if tail:
            straddling = (tail + piece[:3]).find(BLANK_LINE)
            if straddling >= 0:
                self._tail = b""
                return straddling + 4 - len(tail)
        found = piece.find(BLANK_LINE)
        if found >= 0:
            self._tail = b""
            return found + 4
        self._tail = piece[-3:] if len(piece) >= 3 else (tail + piece)[-3:]
        return 0
