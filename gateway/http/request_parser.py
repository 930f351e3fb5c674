"""Parses a connection's bytes into requests: heads, bodies and their ends. Does no I/O; calls a handler.

llhttp (httptools) reads each message; framing.py decides where a message ends and which heads are refused.

1. One call of `feed` reads at most one message. It does not look at the bytes after it.
2. The limits of a head and of a chunked body's framing apply while they arrive.
3. The framing of a chunked body (chunk sizes, extensions, line ends, trailers) is at most as long as the body itself,
   plus CHUNK_FRAMING_BYTES. The smallest chunk takes as much time as a large one.
4. A chunk that is larger than the rest of the body's limit is refused when that many bytes have come, not by the size
   that it announces: llhttp's Python interface does not tell the size, and a second parser of chunk lines, which must
   agree with llhttp on every byte, would be a risk of its own. Nothing is reserved for an announced size.
5. A head that is known (known_heads.py) is not parsed, and llhttp does not see its body.
"""

from __future__ import annotations

import logging
from typing import Final, Protocol

import httptools

from gateway.common.counted import counted
from gateway.errors import BadFraming, GatewayError, HeadersTooLarge, Internal
from gateway.http.framing import CHUNKED, FRAMING_HEADERS, OWS, BlankLine, framing
from gateway.http.known_heads import KnownHeads
from gateway.http.malformed import URL, sentence_for
from gateway.http.request_head import RequestHead
from gateway.http.target import split_target
from gateway.request import Headers

log = logging.getLogger(__name__)

MAX_HEADERS: Final = 250  # each is read several times; an event has at most 100 attributes
CHUNK_FRAMING_BYTES: Final = 16384
"""How much longer than the body its framing may be. A chunk of 5 bytes has 5 bytes of framing. Clients send a chunk for
each write of the program, or for each of their buffers, which have 16 to 64 KiB in curl and Go."""
PIECE_BYTES: Final = 8192
"""One call of `feed` reads at most this much of a chunked body. One-byte chunks take 0.3 ms, blank lines 3 ms."""
_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
_ANNOUNCES_BODY: Final = frozenset({b"content-length", b"transfer-encoding"})


class RequestHandler(Protocol):
    """Receives what the parser has read."""

    def on_request(self, head: RequestHead) -> None:
        """A head is complete; its body follows, or its end."""

    def on_request_body(self, body: bytes) -> None:
        """More of the body."""

    def on_request_end(self) -> None:
        """The request is complete."""


class RequestParser:
    """Reads one request after another. limit_bytes: of a head. known: shared by all connections.

    head_bytes: how much of an incomplete head has arrived. begun: whether more than empty lines has arrived.
    chunks: the parts of the body so far; each takes a callback.
    """

    def __init__(self, handler: RequestHandler, limit_bytes: int, known: KnownHeads) -> None:
        self._handler = handler
        self._known = known
        self._limit_bytes = limit_bytes
        self._http = self._new_http()
        self._blank_line = BlankLine()
        self._in_body = False
        self._body_left = 0
        self._framing_left = 0
        self._without_llhttp = False  # the body of a known head is read
        self.chunks = 0
        self.head_bytes = 0
        self.begun = False
        # Message
        self._piece = b""  # the whole head, if it came in one piece
        self._head: RequestHead | None = None
        self._target = b""
        self._headers: Headers = []
        self._framing_headers: Headers = []
        self._padded_coding = False
        self._again = False
        self._parts: list[bytes] = []
        self._refusal: GatewayError | httptools.HttpParserError | None = None  # raised in a callback

    def close(self) -> None:
        """Ends all reading, and breaks the reference cycles with llhttp and with the handler."""
        del self._http, self._handler

    @property
    def bodyless_post(self) -> bool:
        """Whether the last request should have a body, but announced none."""
        head = self._head
        return head is not None and head.method in _WITH_BODY and head.names.isdisjoint(_ANNOUNCES_BODY)

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
            raise HeadersTooLarge(
                f"the request line and the headers together are above the maximum of "
                f"{counted(self._limit_bytes, 'byte')}"
            )
        whole = end > 0 and self.head_bytes == len(piece)
        if whole and (known := self._known.find(piece)) is not None:
            self._begin_known(*known)
            return len(piece)
        self.begun = self.begun or bool(piece.strip(b"\r\n"))
        self._piece = piece if whole else b""
        self._parse(piece)
        return len(piece)

    def _begin_known(self, head: RequestHead, body_length: int) -> None:
        """A head with the same bytes was read before. llhttp reads neither this one nor its body."""
        self.head_bytes = 0
        self.chunks = 0
        self.begun = False
        self._head = head
        self._body_left = body_length
        self._in_body = self._without_llhttp = body_length > 0
        self._handler.on_request(head)
        if not self._in_body:
            self._handler.on_request_end()

    def _feed_body(self, data: bytes) -> int:
        left = self._body_left
        if left != CHUNKED:
            piece = data[:left] if left < len(data) else data
            self._body_left -= len(piece)
            if self._without_llhttp:
                self.chunks += 1
                self._handler.on_request_body(piece)
                if not self._body_left:
                    self._in_body = self._without_llhttp = False
                    self._handler.on_request_end()
                return len(piece)
            self._parse(piece)
            if self._in_body:
                self._pass_body()
            return len(piece)
        return self._feed_chunks(data[:PIECE_BYTES])

    def _feed_chunks(self, data: bytes) -> int:
        left = data
        while left and self._in_body:
            end = self._blank_line.end_in(left)
            piece = left[:end] if 0 < end < len(left) else left
            left = left[len(piece) :]
            self._framing_left -= len(piece)
            self._parse(piece)
        if self._in_body:
            self._pass_body()
        return len(data) - len(left)

    def _pass_body(self) -> None:
        """Passes on what has been read of the body. Raises BadFraming if it is too little for its framing."""
        parts = self._parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        if body:
            self.chunks += len(parts)
            parts.clear()
            # `_framing_left` was reduced by all bytes, so these count once for themselves and once for their framing.
            self._framing_left = min(self._framing_left + 2 * len(body), CHUNK_FRAMING_BYTES)
        if self._framing_left < 0:
            raise BadFraming(
                f"the body's chunks are too small: their sizes, extensions and trailers are more than "
                f"{CHUNK_FRAMING_BYTES} bytes longer than the data; send larger chunks"
            )
        if body:
            self._handler.on_request_body(body)

    def _parse(self, piece: bytes) -> None:
        """Gives `piece` to llhttp. Raises GatewayError."""
        reason: GatewayError | None = None
        try:
            self._http.feed_data(piece)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError as exc:
            if not self._again:
                reason = self._reason(exc)
        if reason is not None:
            try:
                raise reason  # outside the handler, so that it gets no context
            finally:
                del reason  # its traceback has this frame
        if self._again:
            self._parse_again()

    def _parse_again(self) -> None:
        """Reads the head again in a form that llhttp reads correctly.

        Without its Upgrade header: the gateway offers no upgrade, and llhttp skips the body. Without the white space
        behind the value of Transfer-Encoding: llhttp refuses a tab there.
        """
        self._piece = b""
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
        self._padded_coding = False
        self._again = False

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:
            return  # a trailer
        padded, name, value = value, name.lower(), value.strip(OWS)
        self._headers.append((name, value))
        if len(self._headers) > MAX_HEADERS:
            self._refusal = HeadersTooLarge(f"the request has more than the maximum of {MAX_HEADERS} headers")
            raise self._refusal
        if name in FRAMING_HEADERS:
            self._framing_headers.append((name, value))
            if name == b"transfer-encoding" and not padded.endswith(value):
                self._padded_coding = True

    def on_headers_complete(self) -> None:
        try:
            self._begin()
        except (GatewayError, httptools.HttpParserError) as exc:
            self._refusal = exc
            raise

    def _begin(self) -> None:
        """The head is complete: its request begins. Raises BadFraming, HttpParserError."""
        http = self._http
        method = http.get_method().decode("ascii")
        if method == "CONNECT":
            raise BadFraming("CONNECT is not supported: the gateway is not a forward proxy")
        if http.should_upgrade() or self._padded_coding:
            self._again = True
            return
        version = http.get_http_version()
        self._body_left, continues = framing(version, self._target, self._framing_headers)
        size, self.head_bytes = self.head_bytes, 0
        self._framing_left = CHUNK_FRAMING_BYTES
        self.chunks = 0
        self._in_body = True
        self.begun = False
        keep_alive = http.should_keep_alive()
        headers = self._headers
        head = RequestHead(
            method,
            *split_target(self._target),
            version,
            headers,
            {name for name, _ in headers},
            keep_alive,
            continues,
            size,
        )
        self._head = head
        if keep_alive and self._body_left != CHUNKED and self._piece:
            self._known.add(self._piece, head, self._body_left)
        self._handler.on_request(head)

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        if not self._again:
            if self._body_left or self._parts:
                try:
                    self._pass_body()
                except BadFraming as exc:
                    self._refusal = exc
                    raise
            self._in_body = False
            self._handler.on_request_end()

    def _reason(self, exc: httptools.HttpParserError) -> GatewayError:
        """Why the request is refused. The context of `exc` does not say: it may be the failure of the request before,
        if this one was read while that was answered."""
        refusal, self._refusal = self._refusal, None
        if isinstance(refusal, GatewayError):
            return refusal
        if refusal is None and isinstance(exc, httptools.HttpParserCallbackError):
            log.error("reading a request failed", exc_info=exc)
            return Internal("the gateway failed to read the request; its log has the cause under this request id")
        return BadFraming(sentence_for(str(exc)) if refusal is None else URL)
