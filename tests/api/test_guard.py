"""Who may ask: loopback Hosts only, no foreign web page, and the operator's exceptions."""

import pytest

from tests.lab.gateway import running

GOOD_HOSTS = [
    "localhost",
    "localhost:8080",
    "127.0.0.1:1",
    "127.8.8.8",
    "[::1]:80",
    "[::1]",
    "LOCALHOST",
    "127.0.0.1:65535",
    "localhost:00080",
    "127.0.0.1:",
    "[::1]:",
]
BAD_HOSTS = [
    "evil.example",
    "evil.example:8080",
    "localhost.evil.example",
    "169.254.169.254",
    "",
    "localhost@evil",
    "[::2]",
    "127.0.0.1:evil.example",
    "127.0.0.1:80:80",
    "localhost:80@evil.example",
    "[::1]evil.example",
    "[127.0.0.1]",
    "::1",
]


def test_loopback_hosts_are_served(http):
    """Whatever name of this machine is used, with or without a port."""
    for host in GOOD_HOSTS:
        assert http.get("/queues", headers={"host": host}).status_code == 200, host


@pytest.mark.parametrize("host", ["127.0.0.1:65536", "localhost:99999", f"[::1]:{'9' * 5000}", "evil.example:99999"])
def test_a_port_that_does_not_exist_is_a_bad_request(http, host):
    """The message says which port is too large, whatever the host is."""
    answer = http.get("/queues", headers={"host": host})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad-request")
    assert "the port is above the maximum of 65535" in answer.json()["detail"]


def test_other_hosts_are_refused(http):
    """A name that a web page could have pointed here (DNS rebinding) is a 403; probes are answered all the same."""
    for host in BAD_HOSTS:
        answer = http.get("/queues", headers={"host": host})
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden-host"), host
        assert http.get("/livez", headers={"host": host}).status_code == 200, host


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
        {"sec-fetch-site": "cross-origin"},
        {"sec-fetch-site": ""},
        [("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")],
        [("sec-fetch-site", "none"), ("sec-fetch-site", "none")],
        [("origin", "https://evil.example"), ("origin", "http://localhost")],
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


@pytest.fixture(scope="module")
def allowing(tmp_path_factory):
    """A gateway with a listed host and a listed origin."""
    flags = ("--allowed-hosts", "jobs.internal", "--allowed-origins", "https://app.example")
    with running(tmp_path_factory.mktemp("allowing") / "data", *flags) as gateway:
        yield gateway


def test_the_operator_can_allow_more(allowing):
    """Listed Hosts and Origins are served, and only those; pages of listed Origins can read the answers (CORS)."""
    with allowing.client() as http:
        assert http.get("/queues", headers={"host": "jobs.internal:80"}).status_code == 200
        assert http.get("/queues", headers={"host": "other.internal"}).status_code == 403
        page = http.get("/queues", headers={"origin": "https://app.example", "sec-fetch-site": "cross-site"})
        assert (page.status_code, page.headers["access-control-allow-origin"]) == (200, "https://app.example")
        for origin in ("https://app.example.evil", "https://evil.example"):
            other = http.get("/queues", headers={"origin": origin})
            assert other.status_code == 403
            assert not [name for name in other.headers if name.startswith("access-control-")]


BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


def test_a_page_s_image_takes_no_job(allowing):
    """Over plain HTTP a browser sends neither Origin nor Sec-Fetch-Site with an image's GET: its User-Agent gives it
    away. Programs, readers of figures and browsers that say where they come from are served."""
    with allowing.client() as http:
        http.post("/queues/q/jobs", json=1)
        for path in ("/queues/q/next", "/queues/q/n%65xt?timeout=0"):
            answer = http.get(path, headers={"host": "jobs.internal", "user-agent": BROWSER, "accept": "image/*"})
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden-origin")
        assert http.get("/queues/q").json()["items"] == 1
        assert http.get("/queues/q", headers={"host": "jobs.internal", "user-agent": BROWSER}).status_code == 200
        for headers in (
            {"host": "jobs.internal", "user-agent": "curl/8.5.0"},
            {"host": "jobs.internal:8080", "user-agent": BROWSER, "sec-fetch-site": "none"},
            {"host": f"127.0.0.1:{allowing.port}", "user-agent": BROWSER},
        ):
            delivery = http.get("/queues/q/next", headers=headers)
            assert delivery.status_code == 200, headers
            assert http.post(delivery.json()["lease"]["url"] + "/nack").status_code in (200, 204)
