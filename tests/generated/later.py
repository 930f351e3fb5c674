"""A gateway as a later version may be: every JSON object of an answer has a member that this version does not know."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.lab import plain

# Their values are the producers' own.
PAYLOADS = {"data", "attributes"}


def grown(value: Any) -> Any:
    """The value with one more member in each object, payloads apart."""
    if isinstance(value, list):
        return [grown(each) for each in value]
    if isinstance(value, dict):
        members = {name: each if name in PAYLOADS else grown(each) for name, each in value.items()}
        return members | {"of_a_later_version": {"n": 1}}
    return value


@contextlib.contextmanager
def later(url: str) -> Iterator[str]:
    """The URL of a relay to the gateway at `url`."""
    upstream = plain.client(base_url=url, timeout=60)

    class Relay(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def relay(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")
            }
            answer = upstream.request(self.command, self.path, content=body, headers=headers)
            content = answer.content
            if answer.headers.get("Content-Type", "").partition(";")[0].endswith("json"):
                content = json.dumps(grown(answer.json())).encode()
            self.send_response(answer.status_code)
            if answer.status_code != 204:
                self.send_header("Content-Type", answer.headers["Content-Type"])
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = relay  # noqa: N815 (names of http.server)

        def log_message(self, *_: object) -> None:
            """Its log is the gateway's."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Relay) as server, upstream:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
