"""The HTTP head and framing, over a real socket: whatever is sent, in any pieces, gets one of the known statuses."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from typing import Any

from gateway.common.shares import Shares
from gateway.fairness.loop_time import LoopTime
from gateway.http.server import GatewayServer
from gateway.settings import Settings

SEEDS = [
    b"\x00GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x05POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /x HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x03POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nA: b\r\n\r\n",
    b"\x01GET http://a/%41?b HTTP/1.1\r\nHost: a \r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    b"\x09POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n1",
    b"\x02GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
    b"\x07CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x08PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]
_BODYLESS = re.compile(rb"(?:POST|PUT|PATCH) ")
_ANSWER = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ")


async def _application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            break
    body = b"%d" % size
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


class _Server:
    """The HTTP server of a worker on a free port; each exchange runs the loop until the connection has ended."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        settings = Settings(header_timeout_s=5, body_timeout_s=5)
        self._server = GatewayServer(_application, settings, Shares(1 << 30, 1.0), LoopTime(tenanted=False))
        listener = socket.create_server(("127.0.0.1", 0))
        self._address = listener.getsockname()
        self.loop.run_until_complete(self._server.start(listener))

    def exchange(self, pieces: list[bytes]) -> list[int]:
        """The statuses of the answers."""
        return self.loop.run_until_complete(self._exchange(pieces))

    async def _exchange(self, pieces: list[bytes]) -> list[int]:
        reader, writer = await asyncio.open_connection(*self._address)
        try:
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            with contextlib.suppress(OSError):  # the server may have closed already; its answer can still be read
                writer.write_eof()
            answer = await asyncio.wait_for(reader.read(), 10)
        except ConnectionError:
            return []
        finally:
            writer.close()
        return [int(status) for status in _ANSWER.findall(answer) if status != b"100"]


_server: list[_Server] = []


def one(data: bytes) -> None:
    """The first byte says into how many pieces the rest is cut."""
    if not _server:
        _server.append(_Server())
    count, text = (data[0] % 16 + 1, data[1:]) if data else (1, b"")
    size = max(1, len(text) // count)
    whole = _server[0].exchange([text])
    cut = _server[0].exchange([text[start : start + size] for start in range(0, len(text), size)])
    for statuses in (whole, cut):
        assert all(status in (200, 400, 408, 431) for status in statuses), statuses
    if whole != cut and not (_BODYLESS.search(text) and (_same(whole, cut) or _same(cut, whole))):
        raise AssertionError(f"{whole} whole, {cut} cut")


def _same(refused: list[int], answered: list[int]) -> bool:
    """Whether the two differ only in the 400 for a POST without a length.

    What comes in the same read behind that POST and is no request is its body. What comes later is another request.
    """
    return refused[-1:] == [400] and answered in ([*refused[:-1], 200], [*refused[:-1], 200, 400])
