"""The gateway behind nginx, HAProxy and Caddy, with the configurations of docs/proxies.md."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import re
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.settings import Settings
from tests.lab.gateway import Running, running
from tests.proxies.proxy import HOST, Proxy, proxied, shown
from tests.streams.reader import StreamReader

pytestmark = pytest.mark.slow  # an outside program

Outcome = concurrent.futures.Future[tuple[int, float]]
KINDS = ("nginx", "haproxy", "caddy")
ENDLESS_BYTES = 1 << 30
UPGRADES = {
    "websocket": {"sec-websocket-version": "13", "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="},
    "h2c": {"http2-settings": "AAMAAABkAAQAAP__"},
}
LONGEST_S = Settings().max_timeout_s
DEBIAN = "haproxy of Debian"
"""HAProxy as Debian configures it: 50 s for clients and servers, and no option abortonclose."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The gateway behind all of them."""
    flags = ("--allowed-hosts", HOST, "--root-path", "/jobs")
    with running(tmp_path_factory.mktemp("gateway") / "data", *flags) as shared:
        yield shared


@pytest.fixture(scope="module")
def proxies(gateway: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Proxy]]:
    """One of each kind, as documented, and HAProxy with Debian's defaults."""
    folder = tmp_path_factory.mktemp("proxies")
    debian = re.sub(r"timeout (client|server) 60s", r"timeout \1 50000", shown("haproxy"))
    debian = re.sub(r"option abortonclose.*", "", debian)
    with contextlib.ExitStack() as stack:
        started = {kind: stack.enter_context(proxied(folder / kind, kind, gateway.port, shown(kind))) for kind in KINDS}
        started[DEBIAN] = stack.enter_context(proxied(folder / "debian", "haproxy", gateway.port, debian))
        yield started


@pytest.fixture(scope="module", autouse=True)
def longest(proxies: dict[str, Proxy]) -> Iterator[dict[str, Outcome]]:
    """A poll of the longest wait through each proxy, while the other tests run: its status and how long it took."""

    def wait(proxy: Proxy) -> tuple[int, float]:
        began = time.monotonic()
        with proxy.client() as http:
            return http.get(f"/queues/nothing/next?timeout={LONGEST_S:g}").status_code, time.monotonic() - began

    with concurrent.futures.ThreadPoolExecutor() as threads:
        yield {name: threads.submit(wait, proxy) for name, proxy in proxies.items()}


@pytest.fixture(params=KINDS)
def proxy(proxies: dict[str, Proxy], request: pytest.FixtureRequest) -> Proxy:
    return proxies[request.param]


def parked(gateway: Running) -> int:
    """The polls that wait in the gateway."""
    with gateway.client() as http:
        metrics = http.get("/metrics").text
    return sum(
        int(float(each)) for each in re.findall(r"^kestrel_gateway_polls_parked{.*} (.+)$", metrics, re.MULTILINE)
    )


def connections(port: int) -> int:
    """The connections to that port of this machine. Source: proc_net_tcp.rst; 01 is ESTABLISHED."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


def until(holds: Callable[[], bool], within_s: float = 60) -> None:
    deadline_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline_s, "it does not come true"
        time.sleep(0.02)


def read_answer(connection: Any) -> tuple[int, dict[str, Any]]:
    """Status and problem document of the one answer that comes, whole or by the end of the connection."""
    answer = b""
    while b"}" not in answer and (piece := connection.recv(65536)):
        answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])


def test_a_job_goes_through(proxy: Proxy, queue: str) -> None:
    """Enqueue, next, ack, by the URLs in the answers; with and without the path below which it is published."""
    with proxy.client() as http:
        for prefix in ("", "/jobs"):
            assert http.post(f"{prefix}/queues/{queue}/jobs", json={"n": 1}).status_code == 201
            taken = http.get(f"{prefix}/queues/{queue}/next?timeout=5")
            assert taken.json()["data"] == {"n": 1}
            assert taken.headers["location"].startswith("/jobs/leases/")
            assert http.post(taken.headers["location"] + "/ack").status_code == 204
            assert http.get(f"{prefix}/queues/{queue}/next?timeout=0").status_code == 204


def test_a_large_body_goes_through(proxy: Proxy, queue: str) -> None:
    """A job of nearly 1 MiB and a batch of nearly 8 MiB, there and back."""
    text = "x" * (Settings().max_job_bytes - 100)
    with proxy.client() as http:
        assert http.post(f"/queues/{queue}/jobs", content=text, headers={"content-type": "text/plain"}).is_success
        delivery = http.get(f"/queues/{queue}/next").json()
        assert delivery["data"] == text
        assert http.post(delivery["lease"]["url"] + "/ack").status_code == 204
        lines = b"\n".join([b'"%b"' % (b"x" * 900_000)] * 9)
        answer = http.post(f"/queues/{queue}/jobs", content=lines, headers={"content-type": "application/x-ndjson"})
        assert answer.status_code == 201, answer.text
        assert http.get(f"/queues/{queue}").json()["items"] == 9


@pytest.mark.parametrize("length", [b"Content-Length: %d" % ENDLESS_BYTES, b"Transfer-Encoding: chunked"])
def test_a_body_that_is_too_large_is_refused_while_it_comes(proxy: Proxy, queue: str, length: bytes) -> None:
    """The gateway's problem document comes long before the client has sent everything."""
    head = b"POST /queues/%b/jobs HTTP/1.1\r\nHost: %b\r\nContent-Type: text/plain\r\n%b\r\n\r\n"
    piece = b"x" * 65536
    if length.startswith(b"Transfer-Encoding"):
        piece = b"10000\r\n%b\r\n" % piece
    with proxy.connect() as connection:
        connection.sendall(head % (queue.encode(), HOST.encode(), length))
        sent_bytes = 0
        with contextlib.suppress(ConnectionError):  # Caddy answers and closes at once
            while not select.select([connection], [], [], 0)[0]:
                connection.sendall(piece)
                sent_bytes += len(piece)
                assert sent_bytes < ENDLESS_BYTES / 2
        status, problem = read_answer(connection)
    assert (status, problem["code"]) == (413, "job-too-large")


def test_a_consumer_that_has_gone_takes_no_job(gateway: Running, proxy: Proxy, queue: str) -> None:
    """The proxy closes its side when the client does, so the next job goes to another consumer."""
    before = parked(gateway)
    with proxy.connect() as connection:
        connection.sendall(
            b"GET /queues/%b/next?timeout=40 HTTP/1.1\r\nHost: %b\r\n\r\n" % (queue.encode(), HOST.encode())
        )
        until(lambda: parked(gateway) == before + 1)
    until(lambda: parked(gateway) == before)
    with proxy.client() as http:
        http.post(f"/queues/{queue}/jobs", json=1)
        delivery = http.get(f"/queues/{queue}/next?timeout=0").json()
        assert delivery["attempt"] == 1
        assert http.post(delivery["lease"]["url"] + "/ack").status_code == 204


def test_haproxy_without_abortonclose_takes_a_job_for_nobody(
    gateway: Running, proxies: dict[str, Proxy], queue: str
) -> None:
    """What the document warns of: the job is leased to a consumer that has gone, and comes back when its lease ends."""
    before = parked(gateway)
    with proxies[DEBIAN].connect() as connection:
        head = b"GET /queues/%b/next?timeout=40&lease=3 HTTP/1.1\r\nHost: %b\r\n\r\n"
        connection.sendall(head % (queue.encode(), HOST.encode()))
        until(lambda: parked(gateway) == before + 1)
    with gateway.client() as http:
        http.post(f"/queues/{queue}/jobs", json=1)
        assert http.get(f"/queues/{queue}/next?timeout=1").status_code == 204
        delivery = http.get(f"/queues/{queue}/next?timeout=10").json()
        assert delivery["attempt"] == 2
        assert http.post(delivery["lease"]["url"] + "/ack").status_code == 204


def test_a_request_to_upgrade_is_served(proxy: Proxy, queue: str) -> None:
    """The answer is that of HTTP/1.1, with the body taken, whichever protocol was asked for."""
    with proxy.client() as http:
        for protocol, fields in UPGRADES.items():
            headers = {"connection": "Upgrade", "upgrade": protocol, **fields}
            assert http.post(f"/queues/{queue}/jobs", json=protocol, headers=headers).status_code == 201
            assert http.get(f"/queues/{queue}/peek", headers=headers).status_code == 200
        assert http.get(f"/queues/{queue}").json()["items"] == 2


def test_the_proxy_closes_idle_connections_before_the_gateway_does(tmp_path: Path) -> None:
    """So it never sends a request on a connection that the gateway is just closing.

    With a time of 1 s in place of 60 s the connections are gone while the gateway would keep them. HAProxy's own is
    5 to 10 s (pool-purge-delay).
    """
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(running(tmp_path / "data", "--allowed-hosts", HOST))
        for kind in KINDS:
            block, changed = re.subn(r"(keepalive|keepalive_timeout) 60s", r"\1 1s", shown(kind))
            assert changed == (kind != "haproxy")
            block = block.replace(" check\n", " pool-purge-delay 1s\n")
            http = stack.enter_context(stack.enter_context(proxied(tmp_path / kind, kind, own.port, block)).client())
            for _ in range(3):
                assert http.post("/queues/q/jobs", json=kind).status_code == 201
            assert connections(own.port) == 1, f"{kind} keeps no connection"
            until(lambda: connections(own.port) == 0)
            assert http.post("/queues/q/jobs", json=kind).status_code == 201
            until(lambda: connections(own.port) == 0)


def test_a_named_upstream_needs_the_host_line(gateway: Running, tmp_path: Path) -> None:
    """Without it nginx sends the upstream's name, which the gateway refuses and the document explains."""
    block = re.sub(r"proxy_set_header Host .*", "", shown("nginx"))
    with proxied(tmp_path / "nginx", "nginx", gateway.port, block) as proxy, proxy.client() as http:
        answer = http.get("/queues")
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden-host")


def test_nginx_may_remove_the_path(gateway: Running, tmp_path: Path, queue: str) -> None:
    """With the documented location a job goes through below the path, and a batch that nginx refuses by default."""
    upstream = shown("nginx").partition("server {\n    listen")[0]
    block = f"{upstream}\nserver {{\nlisten 80;\n{shown('nginx path')}}}"
    with proxied(tmp_path / "nginx", "nginx", gateway.port, block) as proxy, proxy.client() as http:
        assert http.post(f"/jobs/queues/{queue}/jobs", json=1).status_code == 201
        url = http.get(f"/jobs/queues/{queue}/next").json()["lease"]["url"]
        assert http.post(f"{url}/ack").status_code == 204
        batch = b"\n".join([b'"%b"' % (b"x" * 900_000)] * 3)
        lines = {"content-type": "application/x-ndjson"}
        answer = http.post(f"/jobs/queues/{queue}/jobs", content=batch, headers=lines)
        assert answer.status_code == 201, answer.text
        assert http.get("/queues").status_code == 404


@pytest.mark.parametrize("check", ["GET /readyz", "", "/livez"])
def test_haproxy_s_health_checks_find_the_gateway_up(gateway: Running, tmp_path: Path, check: str) -> None:
    """Also the plain one, which is `OPTIONS /` in HTTP/1.0 without a Host."""
    block = shown("haproxy").replace("httpchk GET /readyz", f"httpchk {check}".rstrip())
    block = block.replace(" check\n", " check inter 50ms fall 1 rise 1000\n")
    with proxied(tmp_path / "haproxy", "haproxy", gateway.port, block) as proxy, proxy.client() as http:
        deadline_s = time.monotonic() + 1
        while time.monotonic() < deadline_s:
            assert http.get("/livez").status_code == 200
            time.sleep(0.05)


@pytest.mark.parametrize("name", [*KINDS, DEBIAN])
def test_the_longest_wait_is_answered(name: str, longest: dict[str, Outcome]) -> None:
    """A poll of --max-timeout ends with the gateway's 204, not with the proxy's 504."""
    status, took_s = longest[name].result(60)
    assert status == 204
    assert LONGEST_S <= took_s < LONGEST_S + 5


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/event-stream"])
def test_a_stream_goes_through(gateway: Running, proxy: Proxy, queue: str, accept: str) -> None:
    """Each line at once, while the stream is open; the client's end gives its jobs back."""
    with proxy.client() as http:
        with StreamReader(
            gateway, f"/queues/{queue}/stream?window=2", port=proxy.port, host=HOST, accept=accept
        ) as stream:
            assert stream.head.headers["content-type"] == accept
            stream.next("open")
            for number in range(3):
                assert http.post(f"/queues/{queue}/jobs", json=number).status_code == 201
                job = stream.next()
                assert job["data"] == number
                if number != 1:
                    assert http.post(job["lease"]["url"] + "/ack").status_code == 204
        until(lambda: http.get(f"/queues/{queue}").json()["open_reads"] == 0)
        again = http.get(f"/queues/{queue}/next?timeout=5").json()
        assert (again["data"], again["attempt"]) == (1, 2)
        assert http.post(again["lease"]["url"] + "/ack").status_code == 204
