"""One HTTP/1.1 connection to another replica: h11 over asyncio's streams. Knows no commands and no seals.

It follows no redirect, uses no proxy and sends only the given headers. One request is in progress at a time.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import h11

from gateway.common.counted import counted

READ_BYTES: Final = 65536


class ConnectionEndedError(Exception):
    """The connection ended before the response was complete."""


class BadResponseError(Exception):
    """The answer is not an HTTP/1.1 response, or it is too large."""


@dataclass(frozen=True, slots=True)
class Response:
    """headers: by lower-case name; the last of several with the same name."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class HttpConnection:
    """An open connection. limit_bytes: of a response's head, and of its body."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit_bytes: int) -> None:
        self._reader = reader
        self._writer = writer
        self._limit_bytes = limit_bytes
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=limit_bytes)

    @classmethod
    async def open(
        cls, address: str, port: int, *, tls: ssl.SSLContext | None, name: str | None, limit_bytes: int
    ) -> HttpConnection:
        """A new connection to the IP address. name: the host name that the certificate must have. Raises OSError."""
        reader, writer = await asyncio.open_connection(address, port, ssl=tls, server_hostname=name)
        return cls(reader, writer, limit_bytes)

    @property
    def usable(self) -> bool:
        """Whether another request may be sent, as far as is known."""
        return self._http.our_state is h11.IDLE and not self._reader.at_eof() and not self._writer.is_closing()

    def abort(self) -> None:
        """Closes the connection at once."""
        self._writer.transport.abort()

    async def post(self, target: str, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> Response:
        """Sends the request and returns its response, whatever its status.

        Raises: ConnectionEndedError, BadResponseError; then the connection cannot be used again. Cancelled: the same.
        """
        length = (b"content-length", b"%d" % len(body))
        request = h11.Request(method="POST", target=target, headers=[*headers, length])
        try:
            for event in (request, h11.Data(body), h11.EndOfMessage()):
                self._writer.write(self._http.send(event) or b"")
            await self._writer.drain()
            return await self._response()
        except OSError as exc:
            raise ConnectionEndedError from exc
        except h11.RemoteProtocolError as exc:
            raise BadResponseError(str(exc)) from exc

    async def _response(self) -> Response:
        status = 0
        headers: dict[bytes, bytes] = {}
        body = b""
        while True:
            event = await self._next_event()
            match event:
                case h11.Response():
                    status, headers = event.status_code, dict(event.headers)
                case h11.Data():
                    body += bytes(event.data)
                    if len(body) > self._limit_bytes:
                        raise BadResponseError(f"the body is above {counted(self._limit_bytes, 'byte')}")
                case h11.EndOfMessage():
                    if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
                        self._http.start_next_cycle()
                    return Response(status, headers, body)

    async def _next_event(self) -> h11.Event:
        """The next part of the response."""
        while (event := self._http.next_event()) is h11.NEED_DATA:
            data = await self._reader.read(READ_BYTES)
            if not data:
                raise ConnectionEndedError
            self._http.receive_data(data)
        if not isinstance(event, h11.Event):
            raise ConnectionEndedError
        return event
