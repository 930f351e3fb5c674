"""Parses a connection's bytes into requests: heads, bodies and their ends. Does no I/O; calls a handler.

llhttp (httptools) reads each message; framing.py decides where a message ends and which heads are refused.

1. One call of `feed` reads at most one message. It does not look at the bytes after it.
2. The limit of a head, and of a body's chunk extensions and trailers, applies while they arrive.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final, Protocol

import httptools

from gateway.errors import BadFraming, GatewayError, HeadersTooLarge, Internal
from gateway.http.framing import CHUNKED, FRAMING_HEADERS, OWS, BlankLine, framing

log = logging.getLogger(__name__)

MAX_HEADERS: Final = 250  # each is read several times; an event has at most 100 attributes
_WITH_BODY: Final = frozenset({b"POST", b"PUT", b"PATCH"})

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request's head. headers: names in lower case. continues: whether the client waits for a 100 before its body.

    size: in bytes, as received.
    """

    method: str
    target: bytes
    version: str
    headers: Headers
    keep_alive: bool
    continues: bool
    size: int


class RequestHandler(Protocol):
    """Receives what the parser has read."""

    def on_request(self, head: RequestHead) -> None:
        """A head is complete; its body follows, or its end."""

    def on_request_body(self, body: bytes) -> None:
        """More of the body."""

    def on_request_end(self) -> None:
        """The request is complete."""


class RequestParser:
    """Reads one request after another. limit_bytes: of a head, and of a body's chunk extensions or trailers.

    head_bytes: how much of an incomplete head has arrived. begun: whether more than empty lines has arrived.
    """

    def __init__(self, handler: RequestHandler, limit_bytes: int) -> None:
        self._handler = handler
        self._limit_bytes = limit_bytes
        self._http = self._new_http()
        self._blank_line = BlankLine()
        self._in_body = False
        self._body_left = 0
        self._chunk_overhead = 0
        self.head_bytes = 0
        self.begun = False
        # Message
        self._target = b""
        self._headers: Headers = []
        self._framing_headers: Headers = []
        self._upgrade_asked = False

    def close(self) -> None:
        """Ends all reading, and breaks the reference cycle with llhttp."""
        del self._http

    @property
    def bodyless_post(self) -> bool:
        """Whether the last request should have a body, but announced none."""
        return self._http.get_method() in _WITH_BODY and not any(
            name in (b"content-length", b"transfer-encoding") for name, _ in self._framing_headers
        )

    def feed(self, data: bytes) -> int:
        """Reads at least one byte, up to the end of a head or of a body. Returns how many.

        Raises GatewayError if the request is refused; after that, `feed` must not be called again.
        """
        return self._feed_body(data) if self._in_body else self._feed_head(data)

    def _feed_head(self, data: bytes) -> int:
        end = self._blank_line.end_in(data)
        piece = data[:end] if 0 < end < len(data) else data
        self.head_bytes += len(piece)
        if self.head_bytes > self._limit_bytes:
            raise HeadersTooLarge(f"request line and headers are above {self._limit_bytes} bytes")
        self.begun = self.begun or bool(piece.strip(b"\r\n"))
        self._parse(piece)
        return len(piece)

    def _feed_body(self, data: bytes) -> int:
        left = self._body_left
        end = left if left != CHUNKED else self._blank_line.end_in(data)
        piece = data[:end] if 0 < end < len(data) else data
        if left != CHUNKED:
            self._body_left -= len(piece)
            self._parse(piece)
            return len(piece)
        self._chunk_overhead += len(piece)
        self._parse(piece)
        if self._chunk_overhead > self._limit_bytes:
            raise HeadersTooLarge(f"chunk extensions or trailers are above {self._limit_bytes} bytes")
        return len(piece)

    def _parse(self, piece: bytes) -> None:
        """Gives `piece` to llhttp. Raises GatewayError."""
        reason: GatewayError | None = None
        try:
            self._http.feed_data(piece)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError as exc:
            reason = _reason(exc)
        else:
            return
        if reason is not None:
            raise reason  # outside the handler, so that it gets no context
        self._parse_without_upgrade()

    def _parse_without_upgrade(self) -> None:
        """Reads the head again without its Upgrade header: the gateway offers no upgrade, and llhttp skips the body."""
        method, version = self._http.get_method(), self._http.get_http_version().encode()
        head = [b"%b %b HTTP/%b\r\n" % (method, self._target, version)]
        head += [b"%b: %b\r\n" % (name, value) for name, value in self._headers if name != b"upgrade"]
        self._http = self._new_http()
        self._parse(b"".join([*head, b"\r\n"]))

    def _new_http(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # Source: llhttp, "lenient data after close": bytes after a request with `Connection: close` are not an error.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    # Callbacks of llhttp

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers = []
        self._framing_headers = []
        self._upgrade_asked = False

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:
            return  # a trailer
        name, value = name.lower(), value.strip(OWS)
        self._headers.append((name, value))
        if len(self._headers) > MAX_HEADERS:
            raise HeadersTooLarge(f"the request has more than the maximum of {MAX_HEADERS} headers")
        if name in FRAMING_HEADERS:
            self._framing_headers.append((name, value))

    def on_headers_complete(self) -> None:
        http = self._http
        method = http.get_method().decode("ascii")
        if method == "CONNECT":
            raise BadFraming("CONNECT is not supported: the gateway is not a forward proxy")
        if http.should_upgrade():
            self._upgrade_asked = True
            return
        version = http.get_http_version()
        self._body_left, continues = framing(version, self._target, self._framing_headers)
        size, self.head_bytes = self.head_bytes, 0
        self._chunk_overhead = 0
        self._in_body = True
        self.begun = False
        keep_alive = http.should_keep_alive()
        self._handler.on_request(RequestHead(method, self._target, version, self._headers, keep_alive, continues, size))

    def on_body(self, body: bytes) -> None:
        self._chunk_overhead = 0
        self._handler.on_request_body(body)

    def on_message_complete(self) -> None:
        if not self._upgrade_asked:
            self._in_body = False
            self._handler.on_request_end()


def _reason(exc: httptools.HttpParserError) -> GatewayError:
    cause = exc.__context__
    if isinstance(cause, GatewayError):
        return cause
    if isinstance(exc, httptools.HttpParserCallbackError) and not isinstance(cause, httptools.HttpParserError):
        log.error("reading a request failed", exc_info=exc)
        return Internal("the gateway failed to read the request; its log has the cause under this request id")
    return BadFraming(f"{exc or 'this is not an HTTP request'}")
