"""Enqueue, next and peek over HTTP, as a curl user sees them."""

import base64
import json
import threading
import time

import httpx
import pytest

from tests.lab.examples import examples
from tests.lab.gateway import running
from tests.lab.waiting import until

BODIES = [
    (b'{"n":12345678901234567890123,"f":1.10}', "application/json"),
    (b"", None),
    (b"", "text/plain"),
    (b"\x00\xff\r\nEND\r\n", "application/octet-stream"),
    ("héllo 😀".encode(), "text/plain; charset=utf-8"),
    (b"\xff\xfe", "text/plain"),
    (b"a=1&b=2", "application/x-www-form-urlencoded"),
    (b"[1,2]", None),
    (b"not json", None),
    (b"x" * (1 << 20), "application/octet-stream"),
]


def payload(job: dict) -> bytes:
    """The job's bytes out of its JSON answer; for JSON, its canonical form."""
    if "data_base64" in job:
        return base64.b64decode(job["data_base64"])
    if "json" in job["content_type"]:
        return json.dumps(job["data"]).encode()
    return job["data"].encode()


@pytest.mark.parametrize(("body", "content_type"), BODIES)
def test_a_job_comes_back_as_it_was_put(http, queue, body, content_type):
    """Enqueue, next, ack: the same bytes and type, once."""
    headers = {"content-type": content_type} if content_type else {}
    stored = http.post(f"/queues/{queue}/jobs", content=body, headers=headers)
    assert stored.status_code == 201
    taken = http.get(f"/queues/{queue}/next")
    job = taken.json()
    assert (taken.status_code, job["id"], job["attempt"]) == (200, stored.json()["id"], 1)
    assert taken.headers["lease-id"] == job["lease"]["id"]
    assert taken.headers["location"] == job["lease"]["url"]
    assert taken.headers["cache-control"] == "no-store"
    if "json" in job["content_type"]:
        assert payload(job) == json.dumps(json.loads(body)).encode()
        assert body in taken.content
    else:
        assert payload(job) == body
    if content_type:
        assert job["content_type"] == content_type
    assert http.post(job["lease"]["url"] + "/ack").status_code == 204
    assert http.get(f"/queues/{queue}/next?timeout=0").status_code == 204


def test_jobs_come_in_the_order_they_were_put(http, queue):
    """One queue is first in, first out."""
    for number in range(20):
        http.post(f"/queues/{queue}/jobs", json=number)
    seen = []
    for _ in range(20):
        job = http.get(f"/queues/{queue}/next").json()
        seen.append(job["data"])
        http.post(job["lease"]["url"] + "/ack")
    assert seen == list(range(20))


def test_a_parked_poll_wakes_when_a_job_comes(gateway, http, queue):
    """A poll that waits is answered by the job that is enqueued later, not by its time-out."""
    answers = []

    def poll():
        with gateway.client() as other:
            answers.append(other.get(f"/queues/{queue}/next?timeout=40"))

    poller = threading.Thread(target=poll)
    poller.start()
    until(lambda: waiters(http, queue) == 1)
    began = time.monotonic()
    http.post(f"/queues/{queue}/jobs", json="wake")
    poller.join(30)
    assert answers[0].json()["data"] == "wake"
    assert time.monotonic() - began < 30


def test_an_empty_wait_ends_on_time(http, queue):
    """`timeout` is kept: not earlier, and answered with 204."""
    began = time.monotonic()
    answer = http.get(f"/queues/{queue}/next?timeout=0.3")
    assert answer.status_code == 204
    assert time.monotonic() - began >= 0.29


def test_prefer_wait_is_used_where_no_timeout_is_given(http, queue):
    """RFC 7240: `Prefer: wait=0` is applied and the answer says so; `timeout` overrides it."""
    answer = http.get(f"/queues/{queue}/next", headers={"prefer": "respond-async, wait=0"})
    assert (answer.status_code, answer.headers["preference-applied"]) == (204, "wait=0")
    answer = http.get(f"/queues/{queue}/next?timeout=0", headers={"prefer": "wait=50"})
    assert (answer.status_code, "preference-applied" in answer.headers) == (204, False)


DURATIONS = ["-1", "abc", "1e9", "nan", "inf", "", "1_0", "43201", "%D9%A1", "0x1", "1.", ".5", "+1"]


@pytest.mark.parametrize("name", ["timeout", "lease"])
def test_a_bad_duration_is_told(http, queue, name):
    """Anything but digits with an optional fraction, in range, is a 400 that names the parameter."""
    for value in DURATIONS:
        answer = http.get(f"/queues/{queue}/next?{name}={value}")
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-parameter"), value
        assert name in answer.json()["detail"], value


@pytest.mark.parametrize("query", ["timout=1", "timeout=1&timeout=1", "lease=1&ack=x"])
def test_unknown_and_repeated_parameters_are_told(http, queue, query):
    """A misspelt parameter is not silently ignored."""
    answer = http.get(f"/queues/{queue}/next?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-parameter")


NAMES = [
    "a%20b",
    "a%0d%0aflush_all",
    "..",
    "x" * 300,
    "a+",
    "a~b",
    "a.b",
    "%F0%9F%98%80",
    "a%2Fb",
    "dead",
    "a__b",
    "%00",
]


@pytest.fixture(scope="module")
def unused(tmp_path_factory):
    """A gateway without queues."""
    with running(tmp_path_factory.mktemp("unused") / "data") as gateway:
        yield gateway


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "jobs"), ("GET", "next"), ("GET", "peek"), ("POST", "flush"), ("GET", ""), ("DELETE", "")],
)
def test_a_bad_name_is_told_and_goes_nowhere(unused, method, path):
    """Names outside the alphabet are a 400 on every path and create no queue in Kestrel."""
    for name in NAMES:
        target = f"/queues/{name}/{path}".rstrip("/")
        request = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        head, _, body = unused.raw(request.encode()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 "), name
        assert json.loads(body)["code"] == "invalid-name", name
    with unused.client() as http:
        assert http.get("/queues").json()["queues"] == []


@pytest.mark.parametrize("path", ["/queues//jobs", "/queues/a/b/jobs", "/queues/a/next/", "/nothing"])
def test_an_unknown_path_is_a_problem(http, path):
    """The router's own 404 has the one error shape, too."""
    answer = http.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert answer.json()["code"] == "not-found"


@pytest.mark.parametrize("method", ["HEAD", "PUT", "POST", "OPTIONS", "DELETE"])
def test_next_is_get_only_and_head_takes_no_job(http, queue, method):
    """Any other method on `next` is a 405 with `Allow`, and the job stays."""
    http.post(f"/queues/{queue}/jobs", json=1)
    answer = http.request(method, f"/queues/{queue}/next")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert http.get(f"/queues/{queue}").json()["items"] == 1


@pytest.mark.parametrize("purpose", ["prefetch", "prefetch;prerender"])
def test_a_prefetch_takes_no_job(http, queue, purpose):
    """A browser that fetches ahead gets a problem and no job."""
    http.post(f"/queues/{queue}/jobs", json=1)
    answer = http.get(f"/queues/{queue}/next", headers={"sec-purpose": purpose})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden-prefetch")
    assert http.get(f"/queues/{queue}").json()["items"] == 1


def test_broken_json_is_told_and_not_stored(http, queue):
    """A body that says JSON and is not is a 400; no queue comes of it."""
    answer = http.post(f"/queues/{queue}/jobs", content=b"{", headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-body")
    assert http.get(f"/queues/{queue}").status_code == 404


def test_a_job_over_the_limit_is_told_and_not_stored(http, queue):
    """Too large by Content-Length, and too large in chunks: 413, nothing stored."""
    big = b"x" * ((1 << 20) + 1)
    for content in (big, iter([big])):
        answer = http.post(f"/queues/{queue}/jobs", content=content)
        assert (answer.status_code, answer.json()["code"]) == (413, "job-too-large")
    assert http.get(f"/queues/{queue}").status_code == 404


@pytest.mark.parametrize("value", ["x" * 257, "text/plain\x80", "\x01"])
def test_a_content_type_that_is_no_header_text_is_told(http, queue, value):
    """A Content-Type that could not be given back is refused at the door."""
    answer = http.post(f"/queues/{queue}/jobs", content=b"x", headers={"content-type": value.encode("latin-1")})
    assert answer.status_code == 400


def test_peek_leaves_the_job(http, queue):
    """Peek shows the head again and again; on an empty or unknown queue it is a 404 and creates none."""
    assert http.get(f"/queues/{queue}/peek").json()["code"] == "queue-not-found"
    assert http.get(f"/queues/{queue}").status_code == 404
    http.post(f"/queues/{queue}/jobs", json={"a": 1})
    for _ in range(2):
        shown = http.get(f"/queues/{queue}/peek").json()
        assert (shown["data"], "lease" in shown) == ({"a": 1}, False)
    http.post(f"/queues/{queue}/flush")
    assert http.get(f"/queues/{queue}/peek").json()["code"] == "queue-empty"


def test_flush_empties_and_delete_removes(http, queue):
    """Flush empties, delete removes; both know an unknown queue."""
    http.post(f"/queues/{queue}/jobs", json=1)
    assert http.post(f"/queues/{queue}/flush").status_code == 204
    assert http.get(f"/queues/{queue}").json()["items"] == 0
    assert http.delete(f"/queues/{queue}").json() == {"queue": queue, "leases_ended": 0}
    assert http.delete(f"/queues/{queue}").status_code == 404
    assert http.post(f"/queues/{queue}/flush").status_code == 404


def test_two_consumers_never_get_the_same_job(gateway, http, queue):
    """Many jobs, 8 consumers at once: each job exactly once."""
    numbers = list(range(examples(200, fewest=64)))
    lines = "\n".join(map(str, numbers))
    answer = http.post(f"/queues/{queue}/jobs", content=lines, headers={"content-type": "application/x-ndjson"})
    assert answer.status_code == 201
    seen: list[int] = []

    def consume():
        with gateway.client() as client:
            while (answer := client.get(f"/queues/{queue}/next?timeout=0")).status_code == 200:
                seen.append(answer.json()["data"])
                assert client.post(answer.json()["lease"]["url"] + "/ack").status_code == 204

    consumers = [threading.Thread(target=consume) for _ in range(8)]
    for each in consumers:
        each.start()
    for each in consumers:
        each.join(30)
    assert sorted(seen) == numbers


def waiters(http: httpx.Client, queue: str) -> int:
    """Blocked gets on a queue, as Kestrel counts them."""
    answer = http.get(f"/queues/{queue}")
    return answer.json()["waiters"] if answer.status_code == 200 else 0
