"""CORS: off unless origins are listed; then their pages, and no others, are allowed."""

import pytest

from gateway.settings import Settings, SettingsError
from tests.api.keyring import Keyring
from tests.lab.gateway import running

APP = "https://app.example"
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}


@pytest.fixture(scope="module")
def keyring(tmp_path_factory):
    ring = Keyring(tmp_path_factory.mktemp("cors") / "keys.toml")
    ring.add("page")
    return ring


@pytest.fixture(scope="module")
def listed(keyring, tmp_path_factory):
    """A gateway with keys and two origins."""
    flags = ("--keys", str(keyring.path), "--allowed-origins", APP, "--allowed-origins", "http://localhost:3000")
    with running(tmp_path_factory.mktemp("listed") / "data", *flags) as gateway:
        yield gateway


def cors_of(answer):
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


def test_a_preflight_is_answered(listed):
    """A listed page may ask with the method and headers it names; nothing is said of credentials, and never `*`."""
    with listed.client() as http:
        answer = http.options("/queues/q/jobs", headers={"origin": APP, **PREFLIGHT})
    assert answer.status_code == 204
    assert cors_of(answer) == {
        "access-control-allow-origin": APP,
        "access-control-allow-methods": "GET, POST, PUT, DELETE",
        "access-control-allow-headers": "authorization,content-type",
        "access-control-max-age": "600",
    }
    assert "Origin" in answer.headers["vary"]
    assert answer.headers["request-id"]


def test_answers_can_be_read(listed, keyring, queue):
    """Deliveries and errors alike carry the origin and expose the headers a consumer needs."""
    with keyring.client(listed, "page") as http:
        http.headers["origin"] = APP
        assert http.post(f"/queues/{queue}/jobs", json=1).status_code == 201
        for path, status in ((f"/queues/{queue}/next", 200), ("/queues/a__b", 400), ("/nosuch", 404)):
            answer = http.get(path)
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == APP
            assert answer.headers["vary"] == "Origin"
            exposed = answer.headers["access-control-expose-headers"].split(", ")
            assert {"Lease-Id", "Lease-Expires", "Location", "Retry-After", "Preference-Applied", "Request-Id"} <= {
                *exposed
            }
            assert "access-control-allow-credentials" not in answer.headers
        del http.headers["authorization"]
        answer = http.get("/queues")
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (401, APP)


def test_every_header_of_a_delivery_can_be_read(listed, keyring, queue):
    """The gateway's own attributes, the trace and the coverage among them; a producer's own extensions cannot be."""
    sent = {
        "ce-specversion": "1.0",
        "ce-id": "7",
        "ce-source": "/s",
        "ce-type": "t",
        "ce-subject": "s",
        "ce-time": "2026-01-31T12:00:00Z",
        "ce-dataschema": "/d",
        "ce-expires": "2999-01-31T12:00:00Z",
        "ce-own": "1",
        "traceparent": f"00-{'1' * 32}-{'2' * 16}-01",
        "tracestate": "a=b",
        "origin": APP,
    }
    with keyring.client(listed, "page") as http:
        assert http.post(f"/queues/{queue}/jobs", content=b"x", headers=sent).status_code == 201
        answer = http.get(f"/queues/{queue}/next?format=raw", headers={"origin": APP})
        assert http.post(f"/leases/{answer.headers['lease-id']}/reject", json={"reason": "r"}).status_code == 204
        exposed = {each.lower() for each in answer.headers["access-control-expose-headers"].split(", ")}
    shown = {name for name in answer.headers if name.startswith(("ce-", "trace", "lease"))}
    assert shown - exposed == {"ce-own"}
    assert shown >= {"ce-id", "ce-subject", "ce-attempt", "ce-enqueued", "ce-expires", "traceparent", "tracestate"}
    assert {"ce-lasterror", "ce-tenant", "ce-deadreason", "queue-coverage", "attributes-left-out"} <= exposed


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "https://app.example.evil", "http://app.example", ""]
)
def test_other_pages_are_told_nothing(listed, keyring, origin):
    """No preflight is answered and no answer is marked; `Vary` tells caches that the origin matters."""
    with keyring.client(listed, "page") as http:
        assert http.options("/queues", headers={"origin": origin, **PREFLIGHT}).status_code == 405
        answer = http.get("/queues", headers={"origin": origin})
        assert cors_of(answer) == {}
        assert answer.headers["vary"] == "Origin"


def test_a_strange_preflight_breaks_nothing(listed):
    """Headers that are none are not echoed."""
    headers = {"origin": APP, "access-control-request-method": "POST", "access-control-request-headers": "a;b=\x7f"}
    with listed.client() as http:
        answer = http.options("/queues", headers=headers)
    assert answer.status_code in {204, 400}
    assert "access-control-allow-headers" not in answer.headers


def test_it_is_off_by_default(http):
    """Without a list no answer mentions CORS, and OPTIONS is a method like any other that is not there."""
    assert http.options("/queues", headers={"sec-fetch-site": "same-origin", **PREFLIGHT}).status_code == 405
    answer = http.get("/queues")
    assert cors_of(answer) == {}
    assert "vary" not in answer.headers


@pytest.mark.parametrize(
    "origin", ["*", "null", "app.example", "https://app.example/", "https://App.example", "https://a,b"]
)
def test_what_is_no_origin_is_refused(origin):
    """Said at the start: it would never match."""
    with pytest.raises(SettingsError, match="is not an origin"):
        Settings(allowed_origins=(origin,))
