"""A gateway that a proxy publishes below a path, and what load balancers ask."""

from __future__ import annotations

import pytest

from tests.api.test_page import BROWSER
from tests.lab import plain
from tests.lab.gateway import Running, running
from tests.process.serving import parse_head

ROOT = "/internal/jobs"


@pytest.fixture(scope="module")
def below(tmp_path_factory):
    """A gateway with --root-path."""
    with running(tmp_path_factory.mktemp("below") / "data", "--root-path", ROOT) as gateway:
        yield gateway


@pytest.mark.parametrize("prefix", [ROOT, ""])
def test_urls_begin_with_the_root_path(below: Running, prefix: str) -> None:
    """Whether the proxy passes the path on or removes it: every URL in an answer leads back through the proxy."""
    with below.client() as http:
        for name in ("one", "two"):
            assert http.post(f"{prefix}/queues/{name}/jobs", json=1).status_code == 201
        for query in ("one/next", "two/next?format=raw"):
            taken = http.get(f"{prefix}/queues/{query}")
            assert taken.headers["location"] == f"{ROOT}/leases/{taken.headers['lease-id']}"
            if query == "one/next":
                assert taken.json()["lease"]["url"] == taken.headers["location"]
            url = taken.headers["location"].removeprefix("" if prefix else ROOT)
            assert http.post(url + "/ack").status_code == 204
        page = http.get(f"{prefix}/queues?limit=1").json()
        assert page["next"].startswith(f"{ROOT}/queues?")
        assert http.get(page["next"]).json()["queues"]
        assert f"\nservers:\n- url: {ROOT}\n" in http.get(f"{prefix}/openapi.yaml").text
        assert http.get(f"{prefix}/openapi.json").json()["servers"] == [{"url": ROOT}]


def test_a_browser_is_led_to_the_page_below_the_root_path(below: Running) -> None:
    """Whether the proxy removes the path or not."""
    with below.client() as http:
        for path in ("/", f"{ROOT}/", ROOT):
            assert http.get(path, headers=BROWSER).headers["location"] == f"{ROOT}/ui/"


def test_only_the_whole_root_path_is_removed(below: Running) -> None:
    """What merely begins alike, and the path twice, is nothing here."""
    with below.client() as http:
        for path in (f"{ROOT}x/queues", f"{ROOT}{ROOT}/queues", "/internal/queues", f"{ROOT}/nosuch"):
            assert http.get(path).status_code == 404, path
        assert http.options(ROOT).status_code == http.options(f"{ROOT}/").status_code == 204


@pytest.mark.parametrize(
    ("method", "path", "meant"),
    [
        ("GET", f"{ROOT}/queue/x", f"did you mean GET {ROOT}/queues/{{queue}}? "),
        ("GET", "/queue/x", f"did you mean GET {ROOT}/queues/{{queue}}? "),
        ("GET", f"{ROOT}{ROOT}/queues", f"did you mean GET {ROOT}/queues? "),
        ("GET", f"{ROOT}/health", f"did you mean GET {ROOT}/livez or GET {ROOT}/readyz? "),
        ("GET", f"{ROOT}/zzz/zzz", ""),
    ],
)
def test_hints_begin_with_the_root_path(below: Running, method: str, path: str, meant: str) -> None:
    """What is suggested can be sent as it is written, through the proxy."""
    with below.client() as http:
        detail = http.request(method, path).json()["detail"]
        the = "The" if meant else "the"
        assert detail == f"there is nothing at this path; {meant}{the} contract is at {ROOT}/openapi.yaml"
        detail = http.put(f"{ROOT}/queues/x").json()["detail"]
        assert f"did you mean POST {ROOT}/queues/{{queue}}/jobs?" in detail


@pytest.mark.parametrize("request_line", ["OPTIONS / HTTP/1.0", "OPTIONS /livez HTTP/1.0", "OPTIONS /readyz HTTP/1.1"])
def test_load_balancers_may_ask_with_options(gateway: Running, request_line: str) -> None:
    """HAProxy's `option httpchk` asks so, without a Host in HTTP/1.0: a 204 without a body."""
    host = "Host: any.example\r\nConnection: close\r\n" if request_line.endswith("1.1") else ""
    answer = gateway.raw(f"{request_line}\r\n{host}\r\n".encode())
    head, _, body = answer.decode().partition("\r\n\r\n")
    assert (parse_head(head)[0], body) == (204, "")


def test_a_gateway_without_servers_is_not_ready_for_options(tmp_path) -> None:
    """What cannot serve is a 503 to OPTIONS, too, while it is alive."""

    class Unready(Running):
        def ready(self) -> bool:
            return plain.options(self.url + "/livez", timeout=2).status_code == 204

    gateway = Unready(tmp_path / "data", "--kestrel", "127.0.0.1:1")
    try:
        with gateway.client() as http:
            for path, status in (("/readyz", 503), ("/", 503), ("/livez", 204)):
                assert http.options(path).status_code == status
    finally:
        gateway.kill()
