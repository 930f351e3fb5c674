"""What a request leaves in the log, and what ties its answers to it, seen from outside."""

from __future__ import annotations

import httpx
import pytest

from gateway.api.access.guard import Guard
from gateway.api.context import RequestContext
from gateway.api.edge import Edge
from gateway.api.exchange import Answer, respond
from gateway.settings import Settings
from tests.lab.gateway import Running
from tests.lab.waiting import until
from tests.process.serving import Server, problem, serving


def test_lease_ids_are_not_logged(gateway: Running, http: httpx.Client, queue: str) -> None:
    """Who has an id can settle the job: the log has eight characters of it, which tell it from others."""
    http.post(f"/queues/{queue}/jobs", content=b"1")
    lease = http.get(f"/queues/{queue}/next").json()["lease"]["id"]
    for path in (f"/leases/{lease}", f"/leases/{lease}x", f"/leases/{lease}%20"):
        http.get(path)
    http.post(f"/leases/{lease}/ack")
    until(lambda: f" path=/leases/..{lease[16:24]}../ack " in gateway.log.read_text())
    log = gateway.log.read_text()
    assert lease[:30] not in log
    assert lease[-30:] not in log


def test_the_server_s_own_500_carries_the_request_s_id() -> None:
    """A response that fails before its first byte is answered by the server, under the id that the edge gave."""

    async def test(server: Server) -> None:
        async def failing(context: RequestContext) -> None:
            await respond(context, Answer(200, b"never", [(b"x", b"a\r\nb: c")]))

        server.serve_with(Edge(failing, Guard(Settings()), lambda: None).handle)
        answer = await server.exchange(b"GET /failing HTTP/1.1\r\nHost: localhost\r\nRequest-Id: abc-1\r\n\r\n")
        assert problem(answer)["request_id"] == "abc-1"

    serving(test)


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip", "GZIP"])
def test_compressed_bodies_are_refused(http: httpx.Client, queue: str, coding: str) -> None:
    """They would be stored compressed under a type that does not say so: 415, and nothing is stored."""
    answer = http.post(f"/queues/{queue}/jobs", content=b"x", headers={"Content-Encoding": coding})
    assert answer.status_code == 415
    assert answer.json()["code"] == "unsupported-encoding"
    assert http.get(f"/queues/{queue}").status_code == 404
    plain = http.post(f"/queues/{queue}/jobs", content=b"x", headers={"Content-Encoding": "identity"})
    assert plain.status_code == 201


def test_two_content_types_are_refused(gateway: Running, http: httpx.Client, queue: str) -> None:
    """It is unclear which of them was meant: 400, and nothing is stored."""
    head = f"POST /queues/{queue}/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nConnection: close\r\n"
    answer = gateway.raw(f"{head}Content-Type: text/plain\r\nContent-Type: application/json\r\n\r\n1".encode())
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"invalid-parameter"' in answer
    assert http.get(f"/queues/{queue}").status_code == 404
