"""Bad input of the calls for many jobs: the problem says what is wrong with the value, and nothing is done."""

import pytest

from tests.batches.test_batches import enqueue, states, take

pytestmark = pytest.mark.usefixtures("ledger_balances")

LINES = {"content-type": "application/x-ndjson", "prefer": "return=minimal"}


@pytest.fixture(scope="module")
def leased(gateway):
    """The path of a lease on three jobs, which no request here settles."""
    with gateway.client() as http:
        enqueue(http, "kept-leased", 3)
        _, url = take(http, "kept-leased", lease_seconds=3600)
        yield url
        assert http.post(url + "/ack").status_code == 204


@pytest.fixture(scope="module")
def stocked(gateway):
    """The name of a queue with two jobs, which no request here takes."""
    with gateway.client() as http:
        enqueue(http, "kept-stocked", 2)
    return "kept-stocked"


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"upto": 0}, "upto: 0 is less than the minimum of 1"),
        ({"upto": 101}, "upto: 101 is greater than the maximum of 100"),
        ({"upto": "2"}, 'upto: "2" is not of type "integer"'),
        ({"upto": None}, "upto: null is not accepted; send a value, or leave upto out"),
        ({"upto": True}, 'upto: true is not of type "integer"'),
        ({"upto": -1}, "upto: -1 is less than the minimum of 1"),
        ({"upto": 4}, "upto: 4 is above the number of jobs under the lease, 3"),
        ({"upto": 10**30}, "upto: "),
        ({"upto": 1.5}, 'upto: 1.5 is not of type "integer"'),
        ({"up_to": 1}, "unknown member 'up_to'"),
        ([], "the body must be a JSON object with upto"),
    ],
)
def test_a_wrong_checkpoint(http, leased, body, detail):
    """Every job stays leased."""
    answer = http.post(leased + "/ack", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-body")
    assert answer.json()["detail"].startswith(detail)
    assert states(http, leased) == ["held"] * 3


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"rest": "ack", "acks": [{"job": -1}]}, "acks.0.job: -1 is less than the minimum of 0"),
        ({"rest": "ack", "acks": [{"job": "0"}]}, 'acks.0.job: "0" is not of type "integer"'),
        ({"rest": "ack", "acks": {}}, 'acks: {} is not of type "array"'),
        (
            {"rest": "ack", "acks": [{"job": 0}] * 101},
            "acks: the list has 101 items, which is above the maximum of 100",
        ),
        ({"rest": "ack", "acks": [{"job": 0, "x": 1}]}, "acks.0: unknown member 'x'; allowed are job, id"),
        ({"rest": "ack", "nacks": [{"job": 0, "position": "dead"}]}, 'nacks.0.position: "dead" is not one of'),
        ({"rest": "ack", "nacks": [{"job": 0, "delay": -1}]}, "nacks.0.delay: -1 is less than the minimum of 0"),
        ({"rest": "ack", "rejects": [{"job": 0, "reason": 5}]}, 'rejects.0.reason: 5 is not of type "string"'),
        ({"rest": None}, "rest is missing"),
        ([], "the body must be a JSON object with rest"),
    ],
)
def test_a_wrong_settlement(http, leased, body, detail):
    """Every job stays leased."""
    answer = http.post(leased + "/settle", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-body")
    assert answer.json()["detail"].startswith(detail)
    assert states(http, leased) == ["held"] * 3


@pytest.mark.parametrize(
    "body", [{"rest": "ack", "acks": [{"job": 1}]}, {"rest": "ack", "nacks": [{"job": 0, "delay": 900}]}], ids=str
)
def test_a_wrong_settlement_of_a_lease_of_one_job(http, queue, body):
    """It stays a lease of one job: its record names the job, and has no list of jobs."""
    http.post(f"/queues/{queue}/jobs?ttl=600", content=b"1")
    job = http.get(f"/queues/{queue}/next?timeout=5").json()
    url = job["lease"]["url"]
    assert http.post(url + "/settle", json=body).status_code == 400
    lease = http.get(url).json()
    assert (lease["state"], lease["job_id"], "jobs" in lease) == ("held", job["id"], False)
    assert http.post(url + "/settle", json={"rest": "ack"}).json()["results"][0]["status"] == 204


def test_a_settlement_that_is_too_large(http, queue):
    """The limit is that of a body that settles one lease."""
    enqueue(http, queue, 1)
    _, url = take(http, queue)
    body = {"rest": "ack", "nacks": [{"job": 0, "reason": "x" * (1 << 20)}]}
    assert http.post(url + "/settle", json=body).status_code == 413
    assert states(http, url) == ["held"]
    http.post(url + "/ack")


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"max": 101}, "max: 101 is greater than the maximum of 100"),
        ({"max": 2.5}, 'max: 2.5 is not of type "integer"'),
        ({"max": 2, "max_bytes": 0}, "max_bytes: 0 is less than the minimum of 1"),
        ({"max": 2, "timeout": -1}, "timeout: -1 is less than the minimum of 0"),
        ({"max": 2, "lease_seconds": 0}, "lease_seconds: 0 is less than the minimum of 1"),
        ({"max": 2, "maximum": 1}, "unknown member 'maximum'"),
    ],
)
def test_a_wrong_lease(http, stocked, body, detail):
    """No job is taken."""
    answer = http.post(f"/queues/{stocked}/leases", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-body")
    assert answer.json()["detail"].startswith(detail)
    assert http.get(f"/queues/{stocked}").json()["items"] == 2


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("max=2&max=3", "max: given twice; send it once"),
        ("max=2&timeout=x", "timeout: 'x' is not a number of seconds"),
        ("max=2&lease_seconds=0", "lease_seconds: 0 is not between 1 and"),
        ("max=2&max_bytes=x", "max_bytes: 'x' is not a whole number"),
        ("max=2&ack=x", "ack: 'x' is not a lease's id, auto, or"),
        ("max=2&ack=auto,auto", "ack: 'auto,auto' is not a lease's id, auto, or"),
    ],
)
def test_a_wrong_query(http, stocked, query, detail):
    """No job is taken."""
    answer = http.get(f"/queues/{stocked}/next?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-parameter")
    assert answer.json()["detail"].startswith(detail)
    assert http.get(f"/queues/{stocked}").json()["items"] == 2


@pytest.mark.parametrize(
    ("query", "headers", "detail"),
    [
        ("delay=-1", {}, "delay: -1 is not between 0 and 2592000 seconds"),
        ("ttl=x", {}, "ttl: 'x' is not a number of seconds"),
        ("delay=5", {"ordering-key": "k"}, "Ordering-Key: jobs with a delay have no order"),
        ("", {"ordering-key": "a b"}, "Ordering-Key: use 1 to 256 visible ASCII characters"),
        ("at=yesterday", {}, "at: "),
        ("nope=1", {}, "unknown query parameter 'nope'"),
    ],
)
def test_wrong_parameters_of_lines(http, queue, query, headers, detail):
    """No line is enqueued."""
    answer = http.post(f"/queues/{queue}/jobs?{query}", content=b"1\n2\n", headers=LINES | headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-parameter")
    assert answer.json()["detail"].startswith(detail)
    assert http.get(f"/queues/{queue}?missing=zero").json()["items"] == 0


@pytest.mark.parametrize("body", [b"", b"\n\n", b" \r\n"])
def test_lines_without_a_job(http, queue, body):
    """There is nothing to store, so everything is stored."""
    assert http.post(f"/queues/{queue}/jobs", content=body, headers=LINES).status_code == 204
    assert http.get(f"/queues/{queue}?missing=zero").json()["items"] == 0
