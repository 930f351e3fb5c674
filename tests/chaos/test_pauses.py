"""Which pauses the operator of make chaos writes down, when the end of an earlier one had no answer."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from chaos.client import READ, Role
from chaos.pauses import Operator


class Answers:
    """What the gateway answers: to each PUT since when the queue is paused, to each DELETE whether it answers."""

    def __init__(self, since: list[str], ends: list[bool], coverage: list[str] | None = None) -> None:
        self.since, self.ends, self.coverage = since, ends, coverage or []


@contextmanager
def gateway(answers: Answers) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Says nothing."""

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            headers = {"queue-coverage": found} if answers.coverage and (found := answers.coverage.pop(0)) else {}
            self.respond({"since": answers.since.pop(0)}, headers)

        def do_DELETE(self) -> None:
            if answers.ends.pop(0):
                self.respond({"paused": False}, {})
            else:
                self.close_connection = True

        def respond(self, body: object, headers: dict[str, str]) -> None:
            content = json.dumps(body).encode()
            self.send_response(200)
            for name, value in {"content-length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("answers", "written"),
    [
        pytest.param(Answers(["a", "b"], [True, True]), 2, id="all answered: each counts, and none is asked for again"),
        pytest.param(Answers(["a", "b", "b"], [False, True, True]), 2, id="the later pause is still the same one"),
        pytest.param(Answers(["a", "b", "c"], [False, True, True]), 1, id="the late request has ended the later pause"),
        pytest.param(Answers(["a", "b", "b"], [False, True, True], ["", "", "1/2"]), 1, id="not every server can tell"),
        pytest.param(Answers(["a", "b"], [True, True], ["1/2", ""]), 1, id="not every server has stored the first"),
    ],
)
def test_a_pause_counts_if_it_was_in_place_to_its_end(tmp_path: Path, answers: Answers, written: int) -> None:
    """An unanswered request may end a later pause, so the operator asks whether that one is still the same."""
    with gateway(answers) as port:
        operator = Operator(
            Role(
                kind="operator",
                name="operator-0",
                life=0,
                seed=1,
                ports=(port,),
                ledger=tmp_path,
                calm_at=time.monotonic(),
            )
        )
        for _ in range(2):
            operator._pause(READ[0])
        for replica in operator.replicas:
            replica.close()
    assert answers.since == answers.ends == []
    events = [json.loads(line) for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
    assert len(events) == written, events
