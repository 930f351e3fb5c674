"""An HTTP endpoint that records what it gets and answers as a test says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from tests.lab.ports import HOST, free_port


@dataclass(frozen=True, slots=True)
class Posted:
    """A request that an endpoint got. headers: in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class EndpointReply:
    """What an endpoint answers."""

    status: int = 204
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class Endpoint:
    """Listens while it is entered. reply: decides the answer, in a thread of its own for each connection."""

    def __init__(self, reply: Callable[[Posted], EndpointReply], port: int = 0) -> None:
        self.port = port or free_port()
        self.url = f"http://{HOST}:{self.port}/hook"
        self.posted: list[Posted] = []
        self.reply = reply

    def __enter__(self) -> Self:
        endpoint = self

        class EndpointHandler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                posted = Posted(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                endpoint.posted.append(posted)
                reply = endpoint.reply(posted)
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((HOST, self.port), EndpointHandler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
