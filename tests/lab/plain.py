"""httpx for http URLs of this machine, for a fraction of its CPU time. Calls and errors are those of httpx.

A client of httpx makes a TLS context, which takes 40 ms, and looks for proxies in the environment, which takes 2 ms.
Its transport, httpcore with h11, takes most of a request's time. Here a request is one write, and llhttp (httptools)
reads the answer.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import httptools
import httpx

HostPort = tuple[str, int]

WITHOUT_TLS: Final = ssl.create_default_context()
CHUNK_BYTES: Final = 1 << 18


def client(**options: Any) -> httpx.Client:
    http = httpx.Client(transport=PlainTransport(), trust_env=False, **options)
    http._cookies = NoCookies()  # httpx has no other way
    return http


def request(method: str, url: str, timeout: float = 5.0, **options: Any) -> httpx.Response:
    """On a connection of its own. The default of the time limit is httpx's."""
    with client(timeout=timeout) as http:
        return http.request(method, url, **options)


get = partial(request, "GET")
post = partial(request, "POST")
options = partial(request, "OPTIONS")
async_client = partial(httpx.AsyncClient, verify=WITHOUT_TLS, trust_env=False)


class NoCookies(httpx.Cookies):
    """The gateway sets none, and to look for them takes a tenth of a request's time."""

    def extract_cookies(self, response: httpx.Response) -> None:
        pass


class PlainTransport(httpx.BaseTransport):
    """HTTP/1.1 without TLS. May be used by several threads. A connection that the server has closed is not used again;
    a request that fails is not repeated."""

    def __init__(self) -> None:
        self._idle: dict[HostPort, list[socket.socket]] = defaultdict(list)
        self._closed = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        assert request.url.scheme == "http", request.url
        timeouts = request.extensions.get("timeout", {})
        address = request.url.host, request.url.port or 80
        connection = self._take(address) or _connect(address, timeouts.get("connect"))
        answer = PlainAnswer(self, address, connection, has_body=request.method != "HEAD")
        try:
            connection.settimeout(timeouts.get("write"))
            _send(connection, request)
            connection.settimeout(timeouts.get("read"))
            answer.read_head()
        except BaseException:
            connection.close()
            raise
        extensions = {"http_version": b"HTTP/1.1", "reason_phrase": answer.reason}
        return httpx.Response(answer.status, headers=answer.headers, stream=answer, extensions=extensions)

    def put_back(self, address: HostPort, connection: socket.socket) -> None:
        """The connection is for the next request to the address."""
        if self._closed:
            connection.close()
        else:
            self._idle[address].append(connection)

    def close(self) -> None:
        self._closed = True
        for connections in self._idle.values():
            for each in connections:
                each.close()

    def _take(self, address: HostPort) -> socket.socket | None:
        """An idle connection that the server has neither closed nor written to."""
        with contextlib.suppress(IndexError):
            while connection := self._idle[address].pop():
                connection.settimeout(0)
                try:
                    connection.recv(1, socket.MSG_PEEK)
                except BlockingIOError:
                    return connection
                except OSError:
                    pass
                connection.close()
        return None


class PlainAnswer(httpx.SyncByteStream):
    """One answer: its head, then its body as it comes. reason: the phrase of the status line."""

    def __init__(
        self, transport: PlainTransport, address: HostPort, connection: socket.socket, *, has_body: bool
    ) -> None:
        self._transport, self._address, self._connection = transport, address, connection
        self._has_body = has_body
        self._parser: Any = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._has_head = self._is_whole = self._is_closed = False
        self._until_end, self._keeps_alive = True, False
        self.status = 0
        self.reason = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def read_head(self) -> None:
        while not self._has_head:
            self._more()

    def __iter__(self) -> Iterator[bytes]:
        while True:
            body, self._body = self._body, []
            yield from body
            if self._is_whole:
                return
            self._more()

    def close(self) -> None:
        """The rest of the answer is not read."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._is_whole and self._keeps_alive:
            self._transport.put_back(self._address, self._connection)
        else:
            self._connection.close()
        self._parser = None  # it refers to this

    def _more(self) -> None:
        try:
            data = self._connection.recv(CHUNK_BYTES)
        except TimeoutError as exc:
            raise httpx.ReadTimeout(str(exc)) from exc
        except OSError as exc:
            raise httpx.ReadError(str(exc)) from exc
        if data:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserError as exc:
                raise httpx.RemoteProtocolError(str(exc)) from exc
        elif self._has_head and self._until_end:
            self._is_whole = True
        else:
            raise httpx.RemoteProtocolError("the server closed the connection before the end of its answer")

    # Called by the parser

    def on_status(self, reason: bytes) -> None:
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status < 200:  # another head follows
            self.headers.clear()
            self.reason = b""
            return
        self._has_head = True
        framed = {name.lower() for name, _ in self.headers} & {b"content-length", b"transfer-encoding"}
        self._until_end = not framed and self.status not in (204, 304)
        self._is_whole = not self._has_body

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        self._is_whole = self._has_head
        self._keeps_alive = self._parser.should_keep_alive()


def _connect(address: HostPort, timeout_s: float | None) -> socket.socket:
    try:
        connection = socket.create_connection(address, timeout_s)
    except TimeoutError as exc:
        raise httpx.ConnectTimeout(str(exc)) from exc
    except OSError as exc:
        raise httpx.ConnectError(str(exc)) from exc
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _send(connection: socket.socket, request: httpx.Request) -> None:
    """A server that refuses a request may stop reading: then its answer is read all the same."""
    lines = [b"%b: %b" % each for each in request.headers.raw]
    head = b"\r\n".join([b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path), *lines, b"", b""])
    try:
        if isinstance(request.stream, httpx.ByteStream):
            connection.sendall(head + b"".join(request.stream))
            return
        assert isinstance(request.stream, httpx.SyncByteStream)
        connection.sendall(head)
        chunked = "transfer-encoding" in request.headers
        for each in request.stream:
            if each:
                connection.sendall(b"%x\r\n%b\r\n" % (len(each), each) if chunked else each)
        if chunked:
            connection.sendall(b"0\r\n\r\n")
    except TimeoutError as exc:
        raise httpx.WriteTimeout(str(exc)) from exc
    except OSError:
        pass
