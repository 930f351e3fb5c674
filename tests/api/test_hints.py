"""What a beginner's near miss is answered: the path, method or parameter that was probably meant."""

import time

import pytest

from gateway.api.request.hints import METHODS, PARAMETERS, WORDS, Paths, elsewhere, parameter
from tests.lab.yaml_text import parse_yaml

SLASH = "Paths have no empty segments and no trailing slash."


@pytest.fixture(scope="module")
def table(root):
    """The contract's paths and their methods."""
    document = parse_yaml((root / "openapi.yaml").read_text())
    methods = {"get", "post", "put", "delete", "options"}
    return {path: {each.upper() for each in methods & item.keys()} for path, item in document["paths"].items()}


NEAR = [
    ("GET", "/queue/x", "GET /queues/{queue}"),
    ("DELETE", "/queue/x", "DELETE /queues/{queue}"),
    ("POST", "/queues/x/jobs/", "POST /queues/{queue}/jobs"),
    ("POST", "/queues/x/job", "POST /queues/{queue}/jobs"),
    ("POST", "//queues/x/jobs", "POST /queues/{queue}/jobs"),
    ("POST", "/queues//x/jobs", "POST /queues/{queue}/jobs"),
    ("POST", "/Queues/x/JOBS", "POST /queues/{queue}/jobs"),
    ("POST", "/queues/x/messages", "POST /queues/{queue}/jobs"),
    ("POST", "/queues/x/cloudevents", "POST /queues/{queue}/events"),
    ("GET", "/queues/x/event", "GET /queues/{queue}/next"),
    ("POST", "/queues/x/enqueue", "POST /queues/{queue}/jobs"),
    ("POST", "/enqueue", "POST /queues/{queue}/jobs"),
    ("POST", "/x/jobs", "POST /queues/{queue}/jobs"),
    ("POST", "/api/queues/x/jobs", "POST /queues/{queue}/jobs"),
    ("POST", "/queues/x/jbos", "POST /queues/{queue}/jobs"),
    ("GET", "/queues/x/messages", "GET /queues/{queue}/next"),
    ("GET", "/queues/x/dequeue", "GET /queues/{queue}/next"),
    ("GET", "/queues/x/next/", "GET /queues/{queue}/next"),
    ("POST", "/lease/x/ack", "POST /leases/{lease}/ack"),
    ("POST", "/leases/x/done", "POST /leases/{lease}/ack"),
    ("POST", "/ack/x", "POST /leases/{lease}/ack"),
    ("DELETE", "/jobs/x", "POST /leases/{lease}/ack"),
    ("POST", "/queues/x/purge", "POST /queues/{queue}/flush"),
    ("GET", "/queues/x/dlq", "GET /queues/{queue}/dead-letters"),
    ("GET", "/health", "GET /livez or GET /readyz"),
    ("GET", "/healthz", "GET /livez or GET /readyz"),
    ("GET", "/status", "GET /livez or GET /readyz"),
    ("GET", "/ready", "GET /readyz"),
    ("GET", "/ping", "GET /livez"),
    ("GET", "/stats", "GET /metrics"),
    ("GET", "/openapi.yml", "GET /openapi.yaml"),
    ("GET", "/swagger.json", "GET /openapi.json"),
    ("GET", "/problems", "GET /problems/{code}"),
    ("GET", "/problem", "GET /problems/{code}"),
    ("GET", "/leases", "GET /leases/{lease}"),
]


def test_a_path_that_is_none_says_which_was_meant(http):
    """404, with the path as the contract writes it; where a slash is too much, that too."""
    for method, path, meant in NEAR:
        answer = http.request(method, str(http.base_url).rstrip("/") + path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not-found"), path
        slash = f" {SLASH}" if path.endswith("/") or "//" in path else ""
        assert answer.json()["detail"] == (
            f"there is nothing at this path; did you mean {meant}?{slash} The contract is at /openapi.yaml"
        ), path


FAR = ["/favicon.ico", "/robots.txt", "/emails", "/queues/x/zzz", "/a/b/c/d/e/f/g", "/" + "x" * 4000, "/%00", "/;"]


def test_a_path_that_is_near_nothing_gets_no_hint(http):
    """And nothing that came is repeated."""
    for path in FAR:
        answer = http.get(path)
        if answer.json()["code"] == "not-found":
            assert answer.json()["detail"] == "there is nothing at this path; the contract is at /openapi.yaml", path


def test_a_hint_repeats_nothing_that_came(http):
    """No text of the request is in the answer, as markup or otherwise."""
    answer = http.get("/queue/<script>alert(1)<script>")
    assert "GET /queues/{queue}" in answer.json()["detail"]
    assert "script" not in answer.text


NOT_TAKEN = [
    ("POST", "/queues/x", "POST /queues/{queue}/jobs"),
    ("PUT", "/queues/x", "POST /queues/{queue}/jobs"),
    ("POST", "/queues", "POST /queues/{queue}/jobs"),
    ("GET", "/queues/x/jobs", "GET /queues/{queue}/next"),
    ("GET", "/queues/x/events", "GET /queues/{queue}/next"),
    ("DELETE", "/queues/x/jobs", "POST /queues/{queue}/flush"),
    ("POST", "/queues/x/next", "POST /queues/{queue}/leases"),
    ("DELETE", "/leases/x", "POST /leases/{lease}/ack"),
    ("PATCH", "/leases/x", "POST /leases/{lease}/extend"),
    ("GET", "/leases/x/ack", ""),
    ("GET", "/leases/x/nack", ""),
    ("PUT", "/queues/x/jobs", ""),
    ("PATCH", "/livez", ""),
]


def test_a_method_that_is_not_taken_says_which_is(http):
    """405 with Allow, and where the request was probably meant to go."""
    for method, path, meant in NOT_TAKEN:
        answer = http.request(method, path)
        allow = answer.headers["allow"]
        assert (answer.status_code, answer.json()["code"]) == (405, "method-not-allowed"), path
        where = f"; did you mean {meant}?" if meant else ""
        assert answer.json()["detail"] == f"this path accepts only {allow}{where}", (method, path)
        assert method not in allow.split(", ")


@pytest.mark.parametrize(
    ("query", "meant"),
    [
        ("time_out=5", "timeout"),
        ("Timeout=5", "timeout"),
        ("wait=5", "timeout"),
        ("timeot=5", "timeout"),
        ("visibility_timeout=5", "lease"),
        ("acks=x", "ack"),
    ],
)
def test_an_unknown_parameter_says_which_was_meant(http, query, meant):
    """400 names the nearest one, and lists those there are."""
    answer = http.get(f"/queues/x/next?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-parameter")
    assert f"did you mean {meant}? This path accepts " in answer.json()["detail"].replace("lease_seconds", "lease")


@pytest.mark.parametrize("name", ["zzz", "x" * 50_000, "", "\x00"])
def test_a_parameter_that_is_near_nothing_gets_no_hint(name):
    """However long it is."""
    assert parameter(name, ["ack", "timeout", "lease", "format"]) == ""


def test_every_hint_is_of_the_contract(table):
    """What is suggested exists: paths, methods, words of paths and parameters."""
    for (method, template), (meant_method, meant_template) in METHODS.items():
        assert method not in table[template], (method, template)
        assert meant_method in table[meant_template]
        assert elsewhere(method, template) == f"did you mean {meant_method} {meant_template}?"
    words = {word for template in table for word in template.split("/")}
    assert words >= WORDS.keys()
    assert elsewhere("GET", "/livez") == ""


def test_every_parameter_hint_is_of_the_contract(root):
    """Each name that is suggested is a query parameter somewhere."""
    text = (root / "openapi.yaml").read_text()
    for name in PARAMETERS.keys() - {"lease", "lease_seconds"}:
        assert f"name: {name}\n" in text, name
    assert "name: lease\n" in text or "name: lease_seconds\n" in text


def test_a_hint_costs_little(table):
    """Also for what was made to cost: far below a millisecond each, measured on a busy machine."""
    paths = Paths(table)
    began_s = time.process_time()
    for number in range(200):
        paths.near("GET", "/" + "/".join(f"{number}queusejobsnextleasesackreadyz{part}"[:32] for part in range(6)))
        paths.near("GET", "/q" * 100_000)
    assert time.process_time() - began_s < 1.0
