"""Who may ask: loopback Hosts only, no foreign web page, and the operator's exceptions."""

import pytest

from tests.running import running

GOOD_HOSTS = ["localhost", "localhost:8080", "127.0.0.1:1", "127.8.8.8", "[::1]:80", "[::1]", "LOCALHOST"]
BAD_HOSTS = [
    "evil.example",
    "evil.example:8080",
    "localhost.evil.example",
    "169.254.169.254",
    "",
    "localhost@evil",
    "[::2]",
]


@pytest.mark.parametrize("host", GOOD_HOSTS)
def test_loopback_hosts_are_served(http, host):
    """Whatever name of this machine is used, with or without a port."""
    assert http.get("/queues", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", BAD_HOSTS)
def test_other_hosts_are_refused(http, host):
    """A name that a web page could have pointed here (DNS rebinding) is a 403; probes are answered all the same."""
    answer = http.get("/queues", headers={"host": host})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden-host")
    assert http.get("/livez", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET /queues HTTP/1.1\r\n",
        b"GET /queues HTTP/1.0\r\n",
        b"GET /queues HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n",
    ],
)
def test_no_host_or_two_are_refused(gateway, request_head):
    """Exactly one Host is needed."""
    assert gateway.raw(request_head + b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:9"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_foreign_page_is_refused_and_takes_nothing(http, queue, headers):
    """A browser on this machine that is made to ask by another site gets a 403, and the job stays."""
    http.post(f"/queues/{queue}/jobs", json=1)
    answer = http.get(f"/queues/{queue}/next", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden-origin")
    assert http.get(f"/queues/{queue}").json()["items"] == 1


def test_the_own_page_is_served(gateway, http):
    """Same origin, and what a reader typed, are no foreign page."""
    assert http.get("/queues", headers={"origin": gateway.url}).status_code == 200
    assert http.get("/queues", headers={"sec-fetch-site": "none"}).status_code == 200


def test_the_operator_can_allow_more(tmp_path):
    """Listed Hosts and Origins are served, and only those."""
    flags = ("--allowed-hosts", "jobs.internal", "--allowed-origins", "https://app.example")
    with running(tmp_path / "data", *flags) as gateway, gateway.client() as http:
        assert http.get("/queues", headers={"host": "jobs.internal:80"}).status_code == 200
        assert http.get("/queues", headers={"host": "other.internal"}).status_code == 403
        page = {"origin": "https://app.example", "sec-fetch-site": "cross-site"}
        assert http.get("/queues", headers=page).status_code == 200
        assert http.get("/queues", headers={"origin": "https://app.example.evil"}).status_code == 403
