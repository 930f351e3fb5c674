"""`GET /`: the version, the limits and what the servers lack; and what a problem's code means."""

import asyncio
from collections import defaultdict

import pytest

import gateway as package
from gateway.errors import error_classes
from tests.api.test_page import BROWSER
from tests.kestrel.standin import StandIn, darner
from tests.lab.gateway import running
from tests.lab.yaml_text import parse_yaml


def limit(http, name):
    return http.get("/").json()["limits"][name]


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A client of a gateway with low limits and without the page."""
    flags = ["--max-timeout", "0.5", "--default-timeout", "0.1", "--max-lease", "90", "--default-lease", "30"]
    flags += ("--max-job-bytes", "10", "--max-batch-jobs", "2", "--max-batch-bytes", "30", "--ui", "off")
    with running(tmp_path_factory.mktemp("bare") / "data", *flags) as gateway, gateway.client() as client:
        yield client


def test_the_limits_are_those_that_hold(bare):
    """Each limit is what a request meets, and what the served contract states: at it the request passes, above it the
    request fails."""
    http = bare
    info = http.get("/").json()
    assert (info["name"], info["version"]) == ("kestrel-gateway", package.__version__)
    document = parse_yaml(http.get(info["contract"]).text)
    assert info["limits"].keys() == document["components"]["schemas"]["Limits"]["properties"].keys()
    for query, name in (("timeout", "max_timeout_seconds"), ("timeout=0&lease_seconds", "max_lease_seconds")):
        assert http.get(f"/queues/q/next?{query}={limit(http, name)}").status_code == 204
        assert http.get(f"/queues/q/next?{query}={limit(http, name) + 1}").status_code == 400
    size, jobs = limit(http, "max_job_bytes"), limit(http, "max_batch_jobs")
    assert http.post("/queues/q/jobs", content=b"x" * size).status_code == 201
    assert http.post("/queues/q/jobs", content=b"x" * (size + 1)).status_code == 413
    lines = {"content-type": "application/x-ndjson"}
    assert http.post("/queues/q/jobs", content=b"1\n" * jobs, headers=lines).status_code == 201
    assert http.post("/queues/q/jobs", content=b"1\n" * (jobs + 1), headers=lines).status_code == 413
    whole = limit(http, "max_batch_bytes")
    assert http.post("/queues/q/jobs", content=b"1".ljust(whole), headers=lines).status_code == 201
    assert http.post("/queues/q/jobs", content=b"1".ljust(whole + 1), headers=lines).status_code == 413
    parameters = document["components"]["parameters"]
    limits = {"type": "number", "format": "double", "minimum": 0, "maximum": 0.5, "x-default": 0.1}
    assert parameters["Timeout"]["schema"] == limits
    assert limit(http, "default_timeout_seconds") == 0.1
    assert limit(http, "default_lease_seconds") == 30
    assert limit(http, "idempotency_window_seconds") == 86400


def test_the_page_can_be_switched_off(bare):
    """Then nothing of it is left, and a browser gets what every client gets."""
    assert bare.get("/", headers=BROWSER).json()["limits"]
    for path in ("/ui", "/ui/", "/ui/app.js", "/ui/session", "/ui/feed", "/ui/history?queue=q", "/docs"):
        assert bare.get(path).status_code == 404, path


def test_it_says_what_the_servers_lack(tmp_path):
    """Here a Darner, which lacks much that Kestrel has; its address is not among what is said."""

    async def main():
        async with StandIn(darner()) as server:

            def ask():
                with running(tmp_path / "data", "--kestrel", server.address) as gateway, gateway.client() as http:
                    return http.get("/").text, http.get("/backends").json()["backends"][0]["missing"]

            said, missing = await asyncio.to_thread(ask)
            assert '"missing":["confirm",' in said
            assert f'"missing":{str(missing).replace(chr(39), chr(34)).replace(" ", "")}' in said
            assert server.address not in said

    asyncio.run(main())


def test_each_problem_code_is_explained(http):
    """With its statuses and whether a repeat may help, as the errors themselves say."""
    expected = defaultdict(set)
    for each in error_classes().values():
        expected[each.code].add((each.status, each.retryable))
    del expected["lease-gone"]
    for code, answers in expected.items():
        explained = http.get(f"/problems/{code}").json()
        assert explained["code"] == code
        assert {(each["status"], each["retryable"]) for each in explained["answers"]} == answers, code
        assert explained["meaning"].endswith("."), code


def test_no_other_code_is_explained(http):
    """What is no code is a 404 that says where they are."""
    answer = http.get("/problems/nosuch")
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
    assert "/openapi.yaml" in answer.json()["detail"]


def test_the_contract_s_example_has_the_defaults(http, root):
    """What people read in openapi.yaml is what a gateway with default settings answers, with the version to come."""
    answers = parse_yaml((root / "openapi.yaml").read_text())["paths"]["/"]["get"]["responses"]
    answer = http.get("/").json()
    answer["version"] = answer["version"].partition(".dev")[0]
    assert answer == answers["200"]["content"]["application/json"]["examples"]["defaults"]["value"]
