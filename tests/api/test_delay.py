"""Delayed jobs over HTTP: for one job, for many, by seconds and by an instant; what is refused; what is told."""

from __future__ import annotations

import contextlib
import json
import time
from datetime import UTC, datetime, timedelta

import pytest

from gateway.envelope.times import instant
from tests.api.keyring import Keyring
from tests.lab.gateway import running
from tests.lab.memcache import MemcacheClient
from tests.lab.ports import free_port

LINES = {"content-type": "application/x-ndjson"}


def when(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def take(http, queue, timeout_s=10):
    """The next job, acked; None if there was none."""
    answer = http.get(f"/queues/{queue}/next", params={"timeout": timeout_s})
    if answer.status_code == 204:
        return None
    job = answer.json()
    assert http.post(job["lease"]["url"] + "/ack").status_code == 204
    return job


@pytest.mark.parametrize("parameters", [{"delay": "0.3"}, {"at": ""}], ids=["delay", "at"])
def test_a_delayed_job_comes_when_it_is_due(http, queue, parameters):
    """Not before `due_at`, which the answer says; a poll that waits gets it then."""
    if "at" in parameters:
        parameters = {"at": when(0.3)}
    answer = http.post(f"/queues/{queue}/jobs", params=parameters, json={"n": 1})
    assert answer.status_code == 201
    due_s = instant(answer.json()["due_at"])
    job = take(http, queue, 0) or take(http, queue)
    assert due_s <= time.time()
    assert (job["id"], job["data"], job["attempt"]) == (answer.json()["id"], {"n": 1}, 1)


@pytest.mark.parametrize(
    "parameters", [{"delay": "0"}, {"at": "2020-01-31T12:00:00+02:00"}, {"at": "0001-01-01T00:00:00+23:59"}]
)
def test_a_delay_that_is_over_is_none(http, queue, parameters):
    """The job is there at once, and nothing is said of a delay."""
    assert "due_at" not in http.post(f"/queues/{queue}/jobs", params=parameters, json=1).json()
    assert take(http, queue, 0)["data"] == 1


@pytest.mark.parametrize("form", ["object", "lines"])
def test_each_job_of_many_may_have_its_own_delay(http, queue, form):
    """A job's own `delay` or `at` counts, `0` for now; otherwise the request's. Both forms of many jobs have it."""
    jobs = [
        {"data": "later", "delay": 0.4},
        {"data": "now", "delay": 0},
        {"data": "at", "at": when(0.2)},
        {"data": "by"},
    ]
    path = f"/queues/{queue}/jobs/batch?delay=0.1"
    if form == "lines":
        body = "".join(json.dumps(job) + "\n" for job in jobs)
        answer = http.post(path, content=body, headers=LINES)
    else:
        answer = http.post(path, json={"jobs": jobs})
    assert answer.status_code == 201
    assert ["due_at" in each for each in answer.json()["results"]] == [True, False, True, True]
    due = {each["id"]: instant(each.get("due_at", "1970-01-01T00:00:00Z")) for each in answer.json()["results"]}
    came = []
    for _ in jobs:
        job = take(http, queue)
        assert time.time() >= due[job["id"]]
        came.append(job["data"])
    assert came[0] == "now"
    assert sorted(came) == ["at", "by", "later", "now"]


def test_the_lines_of_a_request_are_delayed_together(http, queue):
    """NDJSON and batches of events take the delay of their request."""
    assert http.post(f"/queues/{queue}/jobs?delay=0.2", content="1\n2\n", headers=LINES).status_code == 201
    event = {"specversion": "1.0", "source": "/s", "type": "t", "data": 3}
    batch = {"content-type": "application/cloudevents-batch+json"}
    answer = http.post(f"/queues/{queue}/events?delay=0.2", content=json.dumps([event]), headers=batch)
    assert answer.json()["results"][0]["due_at"]
    assert take(http, queue, 0) is None
    assert {take(http, queue)["data"] for _ in range(3)} == {1, 2, 3}


EVENT = {"specversion": "1.0", "source": "/s", "type": "t"}


def test_each_event_may_have_its_own_time(http, queue):
    """`notbefore`, in a batch, alone and in a header: the event is not there before. The attribute stays."""
    events = [EVENT | {"data": "later", "notbefore": when(0.5)}, EVENT | {"data": "now", "notbefore": when(-5)}]
    batch = {"content-type": "application/cloudevents-batch+json"}
    answer = http.post(f"/queues/{queue}/events?delay=300", content=json.dumps(events), headers=batch)
    assert ["due_at" in each for each in answer.json()["results"]] == [True, False]
    single = {"content-type": "application/cloudevents+json"}
    alone = EVENT | {"data": "alone", "notbefore": when(0.5)}
    due = [http.post(f"/queues/{queue}/events", content=json.dumps(alone), headers=single).json()["due_at"]]
    binary = {"ce-specversion": "1.0", "ce-source": "/s", "ce-type": "t", "ce-notbefore": when(0.5)}
    due.append(http.post(f"/queues/{queue}/events", json="header", headers=binary).json()["due_at"])
    assert take(http, queue)["data"] == "now"
    for _ in range(3):
        job = take(http, queue)
        assert time.time() >= instant(job["attributes"]["notbefore"])
    assert [instant(each) - time.time() < 0 for each in due] == [True, True]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("tomorrow", "notbefore: 'tomorrow' is not an RFC 3339 timestamp"),
        ("2999-01-31T12:00:00Z", "is more than the maximum of 30 days ahead"),
    ],
)
def test_a_bad_time_of_an_event_is_its_own_fault(http, queue, value, says):
    """The other event of the batch is stored; alone it is a 400; with an Ordering-Key, too."""
    batch = {"content-type": "application/cloudevents-batch+json"}
    events = [EVENT | {"data": 1}, EVENT | {"data": 2, "notbefore": value}]
    answer = http.post(f"/queues/{queue}/events", content=json.dumps(events), headers=batch)
    assert answer.status_code == 207
    assert (answer.json()["results"][1]["status"], answer.json()["results"][1]["code"]) == (400, "invalid-event")
    assert says in answer.json()["results"][1]["detail"]
    later = EVENT | {"notbefore": when(9)}
    headers = {"content-type": "application/cloudevents+json", "ordering-key": "k"}
    answer = http.post(f"/queues/{queue}/events", content=json.dumps(later), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-parameter")


BAD = [
    ({"delay": "-1"}, "delay: -1 is not between 0 and 2592000 seconds"),
    ({"delay": "1e3"}, "is not a number of seconds"),
    ({"delay": "2592000.1"}, "delay: 2592000.1 is not between 0 and 2592000 seconds"),
    ({"delay": "5", "at": "2030-01-31T12:00:00Z"}, "delay and at are both given; send only one of them"),
    ({"at": "tomorrow"}, "at: 'tomorrow' is not an RFC 3339 timestamp"),
    ({"at": "2030-01-31T12:00:00 02:00"}, "in a query, write a + as %2B"),
    ({"at": "2030-02-31T12:00:00Z"}, "is not an RFC 3339 timestamp"),
    ({"at": "9999-12-31T23:59:59-23:59"}, "at: "),
    ({"at": "2099-01-31T12:00:00Z"}, "more than the maximum of 30 days ahead"),
]


@pytest.mark.parametrize(("parameters", "detail"), BAD)
def test_a_bad_delay_is_refused(http, queue, parameters, detail):
    """With what is wrong and what is allowed; nothing is stored."""
    answer = http.post(f"/queues/{queue}/jobs", params=parameters, json=1)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-parameter")
    assert detail in answer.json()["detail"]


@pytest.mark.parametrize(
    "member",
    [
        {"delay": -1},
        {"delay": 2592001},
        {"delay": "5"},
        {"delay": True},
        {"at": 5},
        {"at": "x"},
        {"delay": 1, "at": "x"},
    ],
)
def test_a_bad_delay_of_one_job_is_its_own_fault(http, queue, member):
    """The other job of the request is stored."""
    answer = http.post(f"/queues/{queue}/jobs/batch", json={"jobs": [{"data": 1} | member, {"data": 2}]})
    assert answer.status_code == 207
    assert [each.get("code") for each in answer.json()["results"]] == ["invalid-body", None]


def test_a_job_that_would_expire_before_it_is_due_is_refused(http, queue):
    """By the request's ttl, or by the event's own expiry; alone and among others."""
    answer = http.post(f"/queues/{queue}/jobs?delay=10&ttl=5", json=1)
    assert (answer.status_code, answer.json()["code"]) == (400, "delay-beyond-expiry")
    event = {"ce-specversion": "1.0", "ce-source": "/s", "ce-type": "t", "ce-expires": when(5)}
    assert http.post(f"/queues/{queue}/jobs?delay=10", json=1, headers=event).json()["code"] == "delay-beyond-expiry"
    jobs = [{"data": 1, "delay": 10}, {"data": 2}]
    results = http.post(f"/queues/{queue}/jobs/batch?ttl=5", json={"jobs": jobs}).json()["results"]
    assert [each.get("code") for each in results] == ["delay-beyond-expiry", None]
    assert http.post(f"/queues/{queue}/jobs?delay=4&ttl=5", json=1).status_code == 201


def test_an_ordering_key_does_not_go_with_a_delay(http, queue):
    """Alone and where one job of many is delayed."""
    key = {"ordering-key": "a"}
    for answer in (
        http.post(f"/queues/{queue}/jobs?delay=1", json=1, headers=key),
        http.post(f"/queues/{queue}/jobs/batch", json={"jobs": [{"data": 1, "delay": 1}]}, headers=key),
    ):
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-parameter")
        assert "have no order" in answer.json()["detail"]
    assert http.post(f"/queues/{queue}/jobs?delay=0", json=1, headers=key).status_code == 201


def test_a_repeated_request_with_a_key_is_delayed_once(http, queue):
    """It gets the first answer, with the first `due_at`; another delay is another request."""
    key = {"idempotency-key": queue}
    first = http.post(f"/queues/{queue}/jobs?delay=0.3", json=1, headers=key)
    again = http.post(f"/queues/{queue}/jobs?delay=0.3", json=1, headers=key)
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert http.post(f"/queues/{queue}/jobs?delay=0.4", json=1, headers=key).status_code == 422
    assert take(http, queue)["id"] == first.json()["id"]
    assert take(http, queue, 0.3) is None


def test_delayed_jobs_outlive_a_flush_and_a_delete(http, queue):
    """They are not on the queue yet, so they come later, and create it again."""
    http.post(f"/queues/{queue}/jobs", json=1)
    http.post(f"/queues/{queue}/jobs?delay=0.5", json=2)
    assert http.post(f"/queues/{queue}/flush").status_code == 204
    assert http.delete(f"/queues/{queue}").status_code == 200
    assert take(http, queue)["data"] == 2


def test_a_queue_with_only_delayed_jobs_does_not_exist_yet(http, queue):
    """There is nothing to flush, delete or pause; each answer says why."""
    assert http.post(f"/queues/{queue}/jobs?delay=900", json=1).status_code == 201
    path = f"/queues/{queue}"
    for answer in (http.post(path + "/flush"), http.delete(path), http.put(path + "/pause", json={}), http.get(path)):
        assert (answer.status_code, answer.json()["code"]) == (404, "queue-not-found")
        assert answer.json()["detail"] == f"there is no queue {queue!r}, or it has only delayed jobs"


def test_holding_queues_are_nobody_s(http, queue):
    """They are in no list, and no request can name them."""
    http.post(f"/queues/{queue}/jobs?delay=1000", json=2)
    assert not [each for each in http.get("/queues").json()["queues"] if "kestrel" in each["queue"]]
    assert http.get("/queues/_kestrel-gateway__delay-13").json()["code"] == "invalid-name"


POLICIES = """
[queues.raw]
format = "raw"
[queues.late]
format = "raw"
retry_delay = [60]
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Clients of two tenants of a gateway with raw queues and two workers, and one of its broker's memcache port."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "queues.toml").write_text(POLICIES)
    keys = Keyring(folder / "keys.toml")
    for tenant in ("aa", "bb"):
        keys.add(tenant, tenant)
    listen = f"127.0.0.1:{free_port()}"
    flags = ("--queues", str(folder / "queues.toml"), "--keys", str(keys.path), "--broker-listen", listen)
    with (
        running(folder / "data", *flags, "--workers", "2") as gateway,
        keys.client(gateway, "aa") as one,
        keys.client(gateway, "bb") as other,
        contextlib.closing(MemcacheClient(listen)) as memcache,
    ):
        yield one, other, memcache


def test_raw_queues_and_tenants(shared):
    """A raw job comes byte for byte, with its ttl; a tenant's delayed job comes to its own queue, and no other's."""
    one, other, _ = shared
    body = b"\x00\r\nEND\r\n"
    assert one.post("/queues/raw/jobs?delay=0.3&ttl=5", content=body).json()["due_at"]
    assert other.get("/queues/raw/next?timeout=0.6").status_code == 204
    answer = one.get("/queues/raw/next?timeout=5&format=raw")
    assert answer.content == body
    assert one.post(answer.headers["location"] + "/ack").status_code == 204


def test_delayed_jobs_are_counted(http, queue):
    """By server for operators, and as zero for a queue while none is delayed anywhere; in the metrics, too."""
    http.post(f"/queues/{queue}/jobs?delay=2000", json=1)
    http.post(f"/queues/{queue}/jobs", json=1)
    (server,) = http.get("/backends").json()["backends"]
    assert server["delayed"] >= 1
    assert "delayed" not in http.get(f"/queues/{queue}").json()
    assert "kestrel_gateway_delayed_jobs_enqueued_total{" in http.get("/metrics").text


def test_zero_delayed_jobs_can_be_told(tmp_path):
    """On a gateway without any; but not while one is set aside on the queue itself, because a copy is not safe."""
    with running(tmp_path / "data") as gateway, gateway.client() as http:
        http.post("/queues/q/jobs", json=1)
        assert http.get("/queues/q").json()["delayed"] == 0
        assert [each["delayed"] for each in http.get("/backends").json()["backends"]] == [0]
        assert http.put("/queues/q/subscriptions/copies").status_code == 201
        lease = http.get("/queues/q/next").json()["lease"]["url"]
        assert http.post(lease + "/nack", json={"delay": 1000}).json()["position"] == "head"
        assert "delayed" not in http.get("/queues/q").json()


def test_a_raw_job_is_not_delayed_beyond_its_ttl(shared):
    """The embedded broker tells when it expires: 400, also in a batch, and the lease is as before. A delay of the
    policy is left out. So it is with an item of a memcache client on any queue."""
    http, _, memcache = shared
    assert memcache.put("aa__plain", b"item", 40) == b"STORED\r\n"
    for queue in ("raw", "late"):
        assert http.post(f"/queues/{queue}/jobs?ttl=40", content=b"job").status_code == 201
    for queue in ("raw", "plain", "late"):
        lease = http.get(f"/queues/{queue}/next?format=raw&timeout=5").headers["location"]
        refused = http.post(f"{lease}/nack", json={"delay": 50})
        assert (refused.status_code, refused.json()["code"]) == (400, "delay-beyond-expiry")
        assert "send a shorter delay, or ack the job" in refused.json()["detail"]
        if queue == "late":
            assert http.post(f"{lease}/nack").json() == {"position": "head"}
            assert http.get(f"/queues/{queue}/next?format=raw&timeout=5").status_code == 200
        else:
            assert http.post(f"{lease}/nack", json={"delay": 0.1}).status_code == 200
    batch = http.post("/queues/raw/leases", json={"max": 2, "timeout": 10}).json()
    lease = batch["lease"]["url"]
    for verb, body in (
        ("nack", {"delay": 50}),
        ("settle", {"rest": "ack", "nacks": [{"job": 0, "delay": 50}]}),
    ):
        refused = http.post(f"{lease}/{verb}", json=body)
        assert (refused.status_code, refused.json()["code"]) == (400, "delay-beyond-expiry"), refused.text
    assert http.post(f"{lease}/ack").status_code == 204
