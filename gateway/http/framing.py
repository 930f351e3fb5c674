"""Where one HTTP/1.1 message ends, and which heads are too ambiguous to serve. Sans-I/O: bytes in, values out.

llhttp, the parser, is strict about line ends, header characters and lengths; this module refuses what llhttp accepts.
Source: RFC 9112 sections 2.3, 3.2, 6.1, 6.3, 11.2; tested with httptools 0.9.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.common.counted import counted
from gateway.errors import BadFraming

CHUNKED: Final = -1
BLANK_LINE: Final = b"\r\n\r\n"
OWS: Final = b" \t"
"""White space around a field's value, which is not part of it (RFC 9110, section 5.5). llhttp leaves it at the end. It
is stripped from every value where the value is read, so that later readers need not do it."""

# Headers that decide how a request is read.
FRAMING_HEADERS: Final = frozenset({b"content-length", b"transfer-encoding", b"host", b"expect"})


# Source: RFC 9110 section 9 and RFC 5789: the methods that a client may pipeline. Other words do not begin a request.
_METHODS: Final = (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"CONNECT")
_VERSION: Final = re.compile(rb" HTTP/[0-9.]+\Z")


def begins_request(data: bytes) -> bool:
    """Whether these bytes, however few, can be the beginning of a request, even of a malformed one.

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

    Raises BadFraming if two readers could understand the request differently.
    """
    if version not in ("1.1", "1.0"):
        raise BadFraming(f"HTTP/{version} is not supported; use HTTP/1.1")
    hosts: list[bytes] = []
    lengths: list[bytes] = []
    codings: list[bytes] = []
    continues = False
    for name, value in headers:
        if name == b"host":
            hosts.append(value)
        elif name == b"content-length":
            lengths.append(value)
        elif name == b"transfer-encoding":
            codings.append(value)
        else:  # Source: RFC 9110, section 10.1.1: a list, of which the gateway ignores every other member
            continues = continues or b"100-continue" in (each.strip(OWS) for each in value.lower().split(b","))
    if len(hosts) > 1:
        raise BadFraming(f"Host is given {counted(len(hosts), 'time')}; send it once")
    if not hosts and version == "1.1":
        raise BadFraming("the Host header is missing; HTTP/1.1 requires it")
    if b"#" in target:
        raise BadFraming("the request target has a fragment, which begins with #; remove it, or write the # as %23")
    if not target.startswith((b"/", b"*")):
        _check_authority(target, hosts[0] if hosts else b"")
    if codings:
        if lengths:
            raise BadFraming("the request has both Content-Length and Transfer-Encoding; send only one of them")
        _check_codings(version, codings)
        return CHUNKED, continues
    if len(lengths) > 1:
        raise BadFraming(f"Content-Length is given {counted(len(lengths), 'time')}; send it once")
    return int(lengths[0]) if lengths else 0, continues and version == "1.1"


def _check_codings(version: str, codings: list[bytes]) -> None:
    """Raises BadFraming unless they are `chunked` alone, in HTTP/1.1."""
    if len(codings) > 1:
        raise BadFraming(f"Transfer-Encoding is given {counted(len(codings), 'time')}; send it once")
    if codings[0].lower() != b"chunked":
        shown = codings[0][:40].decode("latin-1")
        raise BadFraming(f"Transfer-Encoding: {shown!r} is not supported; the only one allowed is chunked")
    if version == "1.0":
        raise BadFraming("HTTP/1.0 has no Transfer-Encoding; use HTTP/1.1")


def _check_authority(target: bytes, host: bytes) -> None:
    """The authority of the absolute form replaces Host (RFC 9112 section 3.2.2), so the two must not differ."""
    authority = target.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0]
    if authority.lower() != host.lower():
        raise BadFraming("the request target and the Host header name different hosts; send the same host in both")


class BlankLine:
    """Finds the end of the next CRLF CRLF in a stream of pieces, even if it is split between two of them.

    Every head ends with one, and so does every chunked body (its last chunk, its trailers).
    """

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b""

    def end_in(self, piece: bytes) -> int:
        """The number of bytes of `piece` up to the end of the blank line; 0 if it does not end in this piece."""
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
