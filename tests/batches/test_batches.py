"""Batches on the embedded broker: many jobs in one answer, under one lease, and every way to settle them."""

import json
import os
import re
import socket
import struct
import time
from pathlib import Path

import pytest

from gateway.leases.batch import SHOWN
from tests.lab.waiting import until
from tests.lab.yaml_text import parse_yaml

pytestmark = pytest.mark.usefixtures("ledger_balances")


def enqueue(http, queue, count, first=0, **query):
    """Numbers, in order."""
    jobs = {"jobs": [{"data": number} for number in range(first, first + count)]}
    assert http.post(f"/queues/{queue}/jobs/batch", json=jobs, params=query).status_code == 201


def take(http, queue, most=100, **query):
    """A batch: the numbers of its jobs, and the path of its lease."""
    answer = http.get(f"/queues/{queue}/next", params={"max": most, "timeout": 5} | query)
    assert answer.status_code == 200, answer.text
    batch = answer.json()
    assert (batch["lease"]["id"], batch["lease"]["url"]) == (answer.headers["lease-id"], answer.headers["location"])
    return [job["data"] for job in batch["jobs"]], batch["lease"]["url"]


def left(http, queue):
    """The numbers on the queue, in order, which is empty afterwards."""
    numbers = []
    while (answer := http.get(f"/queues/{queue}/next?timeout=0&ack=auto")).status_code == 200:
        numbers.append(answer.json()["data"])
    return numbers


def states(http, url):
    """The state of each job of the batch."""
    return [job["state"] for job in http.get(url).json()["jobs"]]


def test_a_batch_has_what_is_ready_up_to_its_size(http, queue):
    """In order, under one lease; a poll that waits brings the first job as soon as it is there."""
    enqueue(http, queue, 5)
    numbers, url = take(http, queue, 3)
    assert numbers == [0, 1, 2]
    assert states(http, url) == ["held"] * 3
    assert take(http, queue)[0] == [3, 4]
    assert http.get(f"/queues/{queue}/next?max=10&timeout=0").status_code == 204
    assert http.post(f"/queues/{queue}/leases", json={"max": 10, "timeout": 0}).json() == {"jobs": []}


def test_jobs_of_a_key_come_together_and_go_back_in_order(http, queue):
    """The broker gives a batch back in its order, so an Ordering-Key makes no batch smaller."""
    jobs = {"jobs": [{"data": number} for number in range(6)]}
    assert http.post(f"/queues/{queue}/jobs/batch", json=jobs, headers={"ordering-key": "k"}).status_code == 201
    numbers, url = take(http, queue, 5)
    assert numbers == [0, 1, 2, 3, 4]
    assert http.post(url + "/ack", json={"upto": 2}).status_code == 204
    assert http.post(url + "/nack", json={"position": "head"}).status_code == 204
    assert left(http, queue) == [2, 3, 4, 5]


def test_one_ack_is_for_all_jobs(http, queue):
    """204 when all are gone; a repeated ack is 204 again, another settlement conflicts."""
    enqueue(http, queue, 40)
    numbers, url = take(http, queue)
    assert numbers == list(range(40))
    for _ in range(2):
        assert http.post(url + "/ack").status_code == 204
    assert states(http, url) == ["acked"] * 40
    assert http.post(url + "/nack").json()["code"] == "lease-settled"
    assert http.get(f"/queues/{queue}").json()["items"] == 0


def test_a_checkpoint_acks_the_first_jobs(http, queue):
    """The others stay leased; a smaller checkpoint changes nothing; more jobs than the batch has are refused."""
    enqueue(http, queue, 6)
    _, url = take(http, queue)
    for upto, acked in ((2, 2), (4, 4), (1, 4)):
        assert http.post(url + "/ack", json={"upto": upto}).status_code == 204
        assert states(http, url) == ["acked"] * acked + ["held"] * (6 - acked)
    refused = http.post(url + "/ack", json={"upto": 7})
    assert (refused.status_code, refused.json()["detail"]) == (
        400,
        "upto: 7 is above the number of jobs under the lease, 6",
    )
    assert http.post(url + "/nack", json={"position": "head"}).status_code == 204
    assert http.post(url + "/ack", json={"upto": 4}).status_code == 204
    assert http.post(url + "/ack", json={"upto": 5}).json()["code"] == "lease-settled"
    assert left(http, queue) == [4, 5]


def test_a_checkpoint_of_a_lease_of_one_job(http, queue):
    """One is all; more is refused, and the job stays leased."""
    enqueue(http, queue, 1)
    url = http.get(f"/queues/{queue}/next").json()["lease"]["url"]
    assert http.post(url + "/ack", json={"upto": 2}).status_code == 400
    assert http.get(url).json()["state"] == "held"
    assert http.post(url + "/ack", json={"upto": 1}).status_code == 204


def test_each_job_is_settled_in_a_way_of_its_own(http, queue):
    """By index or by id; the rest in one way; one result each. A repeated request gets the same answer."""
    enqueue(http, queue, 6)
    answer = http.post(f"/queues/{queue}/leases", json={"max": 100, "timeout": 5}).json()
    url, ids = answer["lease"]["url"], [job["id"] for job in answer["jobs"]]
    wanted = {
        "acks": [{"job": 5}],
        "nacks": [{"job": 0, "position": "head"}, {"id": ids[1], "position": "head"}, {"job": 4, "delay": 60}],
        "rejects": [{"id": ids[2], "reason": "no such user"}],
        "rest": "ack",
    }
    first = http.post(url + "/settle", json=wanted)
    assert first.status_code == 200, first.text
    results = first.json()["results"]
    assert [(each["job"], each["id"]) for each in results] == list(enumerate(ids))
    assert [each["status"] for each in results] == [204, 204, 204, 204, 200, 204]
    assert results[4]["position"] == "tail"
    assert http.post(url + "/settle", json=wanted).json() == first.json()
    assert states(http, url) == ["nacked", "nacked", "rejected", "acked", "delayed", "acked"]
    assert left(http, queue) == [0, 1]
    dead = http.get(f"/queues/{queue}/dead-letters/peek").json()
    assert (dead["data"], dead["attributes"]["lasterror"]) == (2, "no such user")


def test_the_rest_of_a_batch_after_a_checkpoint(http, queue):
    """Jobs that were acked before are no failure, unless the request names them."""
    enqueue(http, queue, 4)
    _, url = take(http, queue)
    http.post(url + "/ack", json={"upto": 2})
    answer = http.post(url + "/settle", json={"rest": "nack", "nacks": [{"job": 0}]})
    assert (answer.status_code, [each["status"] for each in answer.json()["results"]]) == (207, [409, 204, 204, 204])
    assert left(http, queue) == [2, 3]


def test_a_batch_whose_jobs_have_ended_in_different_ways(http, queue):
    """Another settlement conflicts, and its problem counts the ways; of the first jobs, those of these."""
    enqueue(http, queue, 6)
    _, url = take(http, queue)
    rejected = {"rest": "ack", "nacks": [{"job": 3, "position": "head"}], "rejects": [{"job": 4}, {"job": 5}]}
    assert http.post(url + "/settle", json=rejected).status_code == 200
    detail = "the jobs of the batch have ended in different ways: 3 acked, 1 nacked, 2 rejected; GET the lease for each"
    for call, body in (("ack", {}), ("nack", {}), ("reject", {}), ("extend", {"lease_seconds": 9})):
        answer = http.post(f"{url}/{call}", json=body)
        assert (answer.status_code, answer.json()["code"], answer.json()["detail"]) == (409, "lease-settled", detail)
    answer = http.get(f"/queues/{queue}/next", params={"ack": url.rpartition("/")[2], "timeout": 0})
    assert (answer.status_code, answer.json()["detail"]) == (409, detail)
    assert http.post(url + "/ack", json={"upto": 3}).status_code == 204
    assert ": 3 acked, 1 nacked;" in http.post(url + "/ack", json={"upto": 4}).json()["detail"]


@pytest.mark.parametrize(
    ("wanted", "ways"),
    [
        ({"acks": [{"job": 0}], "rest": "nack"}, "1 acked, 2 nacked"),
        ({"rejects": [{"job": 0}, {"job": 1}], "rest": "ack"}, "1 acked, 2 rejected"),
        ({"nacks": [{"job": 0, "delay": 60}], "rest": "ack"}, "2 acked, 1 delayed"),
    ],
)
def test_nothing_else_succeeds_after_a_mixed_settle(http, queue, wanted, ways):
    """A consumer that lost the answer and nacks must not read that all jobs are back; a repeated settle succeeds."""
    enqueue(http, queue, 3)
    _, url = take(http, queue)
    first = http.post(url + "/settle", json=wanted)
    assert first.status_code == 200
    for call in ("ack", "nack", "reject"):
        problem = http.post(f"{url}/{call}").json()
        assert (problem["status"], problem["code"]) == (409, "lease-settled"), call
        assert f"different ways: {ways};" in problem["detail"]
    assert http.post(url + "/settle", json=wanted).json() == first.json()


def test_a_mixed_settle_of_the_rest(http, queue):
    """After a checkpoint, what the settle did counts: a nack of the rest can be repeated, a mixture cannot."""
    for settled, again in (({"rest": "nack"}, 204), ({"acks": [{"job": 1}], "rest": "nack"}, 409)):
        enqueue(http, queue, 3)
        _, url = take(http, queue, max=3)
        assert http.post(url + "/ack", json={"upto": 1}).status_code == 204
        assert http.post(url + "/settle", json=settled).status_code == 200
        assert http.post(url + "/nack").status_code == again
        assert http.post(url + "/ack").status_code == 409
        http.post(f"/queues/{queue}/flush")


def test_a_repeated_nack_after_a_checkpoint(http, queue):
    """The nack was for the rest, so it has succeeded."""
    enqueue(http, queue, 3)
    _, url = take(http, queue)
    assert http.post(url + "/ack", json={"upto": 1}).status_code == 204
    for _ in range(2):
        assert http.post(url + "/nack").status_code == 204


def test_the_first_delay_of_a_nack_counts(http, queue):
    """A repeated nack with another delay, or without one, gets the first `due_at`."""
    enqueue(http, queue, 1)
    url = http.get(f"/queues/{queue}/next").json()["lease"]["url"]
    first = http.post(url + "/nack", json={"delay": 60})
    assert first.status_code == 200
    for body in ({"delay": 3600}, {}, {"delay": 60}):
        again = http.post(url + "/nack", json=body)
        assert (again.status_code, again.json()) == (200, first.json())


def test_a_batch_that_has_partly_expired(http, queue):
    """The problem is that of the lease, and counts the ways."""
    enqueue(http, queue, 3)
    _, url = take(http, queue, lease_seconds=1)
    assert http.post(url + "/ack", json={"upto": 2}).status_code == 204
    until(lambda: states(http, url) == ["acked", "acked", "expired"])
    problem = http.post(url + "/ack").json()
    assert (problem["code"], problem["status"]) == ("lease-expired", 410)
    assert "2 acked, 1 expired" in problem["detail"]


def test_a_lease_of_one_job_is_a_batch_of_one(http, queue):
    """It can be settled in the same way, once."""
    enqueue(http, queue, 1)
    url = http.get(f"/queues/{queue}/next").json()["lease"]["url"]
    for _ in range(2):
        answer = http.post(url + "/settle", json={"rest": "nack", "rejects": [{"job": 0}]})
        assert [each["status"] for each in answer.json()["results"]] == [204]
    assert http.get(f"/queues/{queue}/dead-letters/peek").json()["data"] == 0


@pytest.mark.parametrize(
    ("wanted", "detail"),
    [
        ({}, "rest is missing"),
        ({"rest": "ack", "acks": [{}]}, "acks.0: name the job by either job, its index from 0, or id"),
        ({"rest": "ack", "acks": [{"job": 0, "id": "x"}]}, "acks.0: name the job by either"),
        ({"rest": "ack", "nacks": [{"job": 2}]}, "nacks.0.job: 2 is above the last index of the batch, 1"),
        ({"rest": "ack", "rejects": [{"id": "x"}]}, "rejects.0.id: 'x' is not the id of a job of the batch"),
        ({"rest": "ack", "acks": [{"job": 1}], "nacks": [{"job": 1}]}, "nacks.0: job 1 is settled twice"),
        ({"rest": "drop"}, "rest: "),
    ],
)
def test_a_wrong_settlement_does_nothing(http, queue, wanted, detail):
    """The problem says what is wrong; every job stays leased."""
    enqueue(http, queue, 2)
    _, url = take(http, queue)
    answer = http.post(url + "/settle", json=wanted)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-body")
    assert detail in answer.json()["detail"]
    assert states(http, url) == ["held"] * 2
    http.post(url + "/ack")


def test_a_delay_beyond_the_expiry_of_a_job_does_nothing(http, queue):
    """For one job of many as for a job alone."""
    enqueue(http, queue, 1)
    enqueue(http, queue, 1, 1, ttl=60)
    _, url = take(http, queue)
    for path, wanted in (("/nack", {"delay": 600}), ("/settle", {"rest": "ack", "nacks": [{"job": 1, "delay": 600}]})):
        assert http.post(url + path, json=wanted).json()["code"] == "delay-beyond-expiry"
        assert states(http, url) == ["held"] * 2
    http.post(url + "/ack")


def test_two_jobs_with_one_id_are_named_by_index(http, queue):
    """Events have ids of their senders."""
    event = {"specversion": "1.0", "id": "same", "source": "/s", "type": "t", "data": 1}
    for _ in range(2):
        http.post(f"/queues/{queue}/events", json=event, headers={"content-type": "application/cloudevents+json"})
    url = http.get(f"/queues/{queue}/next?max=5").json()["lease"]["url"]
    answer = http.post(url + "/settle", json={"rest": "ack", "nacks": [{"id": "same"}]})
    assert "is the id of 2 jobs; use the index" in answer.json()["detail"]
    assert http.post(url + "/settle", json={"rest": "ack", "nacks": [{"job": 1}]}).status_code == 200


@pytest.mark.parametrize(("wanted", "order"), [({"position": "head"}, [0, 1, 2, 3, 4]), ({}, [3, 4, 0, 1, 2])])
def test_a_nack_keeps_the_order(http, queue, wanted, order):
    """At the head and at the tail; the next attempt of each."""
    enqueue(http, queue, 5)
    _, url = take(http, queue, 3)
    assert http.post(url + "/nack", json=wanted).status_code == 204
    assert left(http, queue) == order


def test_a_reject_is_for_all_jobs(http, queue):
    """They become dead letters, in order."""
    enqueue(http, queue, 3)
    _, url = take(http, queue)
    assert http.post(url + "/reject", json={"reason": "no"}).status_code == 204
    assert http.get(f"/queues/{queue}/dead-letters").json()["items"] == 3
    assert http.post(url + "/reject").status_code == 204
    assert http.post(url + "/ack").json()["code"] == "lease-settled"


def test_a_delayed_nack_is_for_all_jobs(http, queue):
    """The answer says when, and shows each job."""
    enqueue(http, queue, 2)
    _, url = take(http, queue)
    answer = http.post(url + "/nack", json={"delay": 60})
    assert (answer.status_code, answer.json()["position"]) == (200, "tail")
    assert [job["state"] for job in answer.json()["jobs"]] == ["delayed"] * 2
    assert left(http, queue) == []


def test_a_raw_item_of_a_batch_is_not_delayed(http, queue, gateway):
    """No copy of it is safe, and the others would wait for it: it goes to the head at once, and the answer says so."""
    enqueue(http, queue, 1)
    put_raw(gateway, queue, b"\xff raw")
    answer = http.get(f"/queues/{queue}/next?max=5").json()
    url = answer["lease"]["url"]
    assert [job["id"] is None for job in answer["jobs"]] == [False, True]
    nacked = http.post(url + "/nack", json={"delay": 60})
    assert nacked.json()["position"] == "head"
    assert [(job["state"], job["position"]) for job in nacked.json()["jobs"]] == [
        ("delayed", "tail"),
        ("nacked", "head"),
    ]
    assert http.get(f"/queues/{queue}/next?timeout=5&ack=auto").json()["id"] is None


def broker_socket(gateway):
    """The path of the broker's socket, which may be a link if the directory's path is long."""
    return os.path.realpath(gateway.data / "run" / "broker.sock")


def put_raw(gateway, queue, data):
    """An item of a client that speaks memcache."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(broker_socket(gateway))
        connection.sendall(b"set %b 0 0 %d\r\n%b\r\n" % (queue.encode(), len(data), data))
        assert connection.recv(100) == b"STORED\r\n"


def test_the_state_of_a_batch_is_that_of_one_of_its_jobs(http, queue):
    """Held while the client has one of them, and then the first of the order that openapi.yaml gives."""
    enqueue(http, queue, 4)
    _, url = take(http, queue)
    http.post(url + "/ack", json={"upto": 1})
    assert http.get(url).json()["state"] == "held"
    http.post(url + "/settle", json={"rest": "ack", "nacks": [{"job": 1, "delay": 60}], "rejects": [{"job": 2}]})
    assert states(http, url) == ["acked", "delayed", "rejected", "acked"]
    shown = http.get(url).json()
    assert (shown["state"], shown["position"], shown["job_id"]) == ("rejected", "dead", None)


def test_the_contract_has_the_order_of_the_states():
    """As the code has it."""
    document = parse_yaml((Path(__file__).parents[2] / "openapi.yaml").read_text())
    text = document["components"]["schemas"]["Lease"]["properties"]["jobs"]["description"]
    order = text.partition("one of its jobs has:")[2].partition(". ")[0]
    assert re.findall("`([a-z]+)`", order) == [state.value for state in SHOWN]


def test_a_lease_over_many_is_extended_and_expires_as_one(http, queue):
    """After its end every job is at the tail as its next attempt, in order."""
    enqueue(http, queue, 20)
    _, url = take(http, queue, lease_seconds=30)
    assert http.post(url + "/extend", json={"lease_seconds": 600}).json()["state"] == "held"
    shown = http.post(url + "/extend", json={"lease_seconds": 1}).json()
    assert [job["state"] for job in shown["jobs"]] == ["held"] * 20
    until(lambda: states(http, url) == ["expired"] * 20)
    assert http.post(url + "/ack").json()["code"] == "lease-expired"
    assert http.post(url + "/extend", json={"lease_seconds": 5}).json()["code"] == "lease-expired"
    answer = http.get(f"/queues/{queue}/next?max=100").json()
    assert [job["attempt"] for job in answer["jobs"]] == [2] * 20
    assert [job["data"] for job in answer["jobs"]] == list(range(20))
    http.post(answer["lease"]["url"] + "/ack")


def test_one_request_acks_a_batch_and_takes_the_next(http, queue):
    """Each job once; the answer says that the lease was acked. A lease of one job can be acked so, too."""
    enqueue(http, queue, 250)
    url, seen = None, []
    while True:
        ack = {} if url is None else {"ack": url.rpartition("/")[2]}
        answer = http.get(f"/queues/{queue}/next", params={"max": 100, "timeout": 0} | ack)
        assert ("lease-acked" in answer.headers) == bool(ack)
        if answer.status_code == 204:
            break
        seen.append([job["data"] for job in answer.json()["jobs"]])
        url = answer.json()["lease"]["url"]
    assert [len(each) for each in seen] == [100, 100, 50]
    assert [number for each in seen for number in each] == list(range(250))
    enqueue(http, queue, 3)
    one = http.get(f"/queues/{queue}/next").json()["lease"]["id"]
    numbers, url = take(http, queue, ack=one)
    assert numbers == [1, 2]
    assert http.get(f"/queues/{queue}/next", params={"ack": url.rpartition("/")[2], "timeout": 0}).status_code == 204


def test_at_most_once(http, queue):
    """With `ack=auto` the batch is acked before it is answered."""
    enqueue(http, queue, 5)
    answer = http.get(f"/queues/{queue}/next?max=5&ack=auto")
    assert answer.headers["lease-acked"] == "true"
    assert states(http, answer.json()["lease"]["url"]) == ["acked"] * 5


def test_a_batch_ends_at_its_bytes(http, queue):
    """Not above `max_bytes`, unless it is one job."""
    for _ in range(4):
        http.post(f"/queues/{queue}/jobs", json="x" * 10_000)
    sizes = []
    for most_bytes in (25_000, 100, 100):
        answer = http.get(f"/queues/{queue}/next?max=10&max_bytes={most_bytes}&ack=auto")
        sizes.append(len(answer.json()["jobs"]))
    assert sizes == [2, 1, 1]


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("max=1", "max: '1' is not a whole number from 2 to 100"),
        ("max=101", "max: '101' is not a whole number from 2 to 100"),
        ("max=x", "max: 'x' is not a whole number from 2 to 100"),
        ("max_bytes=5", "max_bytes: without max it has no effect; send max, too, or leave max_bytes out"),
        ("max=2&max_bytes=0", "max_bytes: '0' is not a whole number from 1 to 67108864"),
        ("max=2&format=raw", "format: raw is the form of one job; leave it out, or leave out max"),
    ],
)
def test_a_wrong_query(http, queue, query, detail):
    """The problem says what is wrong with the value and what is allowed."""
    answer = http.get(f"/queues/{queue}/next?{query}")
    assert (answer.status_code, answer.json()["detail"]) == (400, detail)


@pytest.mark.parametrize(
    ("wanted", "detail"),
    [
        ({"max": 1}, "max: 1 is less than the minimum of 2"),
        ({"max": "5"}, 'max: "5" is not of type "integer"'),
        ({"max_bytes": 5}, "max_bytes: without max it has no effect; send max, too, or leave max_bytes out"),
    ],
)
def test_a_wrong_body(http, queue, wanted, detail):
    """The same for the request with a body."""
    answer = http.post(f"/queues/{queue}/leases", json=wanted)
    assert (answer.status_code, answer.json()["detail"]) == (400, detail)


def test_a_wrong_ack(http, queue):
    """A misspelled checkpoint acks nothing."""
    enqueue(http, queue, 2)
    _, url = take(http, queue)
    for wanted in ({"up_to": 1}, {"upto": 0}, {"upto": "1"}):
        assert http.post(url + "/ack", json=wanted).status_code == 400
    assert http.post(url + "/ack", content=b"upto=1").status_code == 400
    assert states(http, url) == ["held"] * 2
    http.post(url + "/ack")


def test_the_forms_of_a_batch(http, queue):
    """A list of events, or lines of which the first is the lease; the lease is in the headers of each."""
    for accept, content_type in (
        ("application/cloudevents-batch+json", "application/cloudevents-batch+json"),
        ("application/x-ndjson", "application/x-ndjson"),
        ("application/x-ndjson, application/json;q=0.5", "application/x-ndjson"),
        ("text/html", "application/json"),
        ("*/*", "application/json"),
    ):
        enqueue(http, queue, 2)
        answer = http.get(f"/queues/{queue}/next?max=5", headers={"accept": accept})
        assert answer.headers["content-type"] == content_type
        lease = answer.headers["lease-id"]
        if "x-ndjson" in content_type:
            head, *lines = [json.loads(line) for line in answer.content.splitlines()]
            assert head["lease"]["id"] == lease
            assert [line["data"] for line in lines] == [0, 1]
        elif "cloudevents" in content_type:
            assert [(event["data"], event["specversion"], event["attempt"]) for event in answer.json()] == [
                (0, "1.0", 1),
                (1, "1.0", 1),
            ]
        else:
            assert answer.json()["lease"]["id"] == lease
        assert http.post(f"/leases/{lease}/ack").status_code == 204


def test_a_batch_that_is_no_list_of_events(http, queue, gateway):
    """A raw item has no event, so the jobs come as objects."""
    enqueue(http, queue, 1)
    put_raw(gateway, queue, b"plain")
    answer = http.get(f"/queues/{queue}/next?max=5", headers={"accept": "application/cloudevents-batch+json"})
    assert answer.headers["content-type"] == "application/json"
    assert len(answer.json()["jobs"]) == 2
    http.post(answer.json()["lease"]["url"] + "/ack")


def test_an_expired_job_is_not_in_the_batch(http, queue):
    """Nor does it count; it is gone."""
    enqueue(http, queue, 1)
    enqueue(http, queue, 2, 1, ttl=1)
    enqueue(http, queue, 1, 3)
    time.sleep(1.1)  # the ttl has whole seconds
    numbers, url = take(http, queue, 3)
    assert numbers == [0, 3]
    http.post(url + "/ack")
    assert left(http, queue) == []


def test_a_client_that_vanishes_gets_no_batch(http, queue, gateway):
    """Its jobs are back, and the next consumer gets them: at the end of the lease if the answer was there in time."""
    enqueue(http, queue, 30)
    for _ in range(5):
        connection = gateway.connect()
        connection.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER: closes with RST
        connection.sendall(
            f"GET /queues/{queue}/next?max=100&lease_seconds=10 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )
        connection.close()
    seen: list[int] = []

    def complete():
        if (answer := http.get(f"/queues/{queue}/next?max=100&timeout=0&ack=auto")).status_code == 200:
            seen.extend(job["data"] for job in answer.json()["jobs"])
        return len(seen) >= 30

    until(complete)
    assert sorted(seen) == list(range(30))


def test_a_deleted_queue_ends_its_batch(http, queue):
    """The answer to the ack says so."""
    enqueue(http, queue, 3)
    _, url = take(http, queue)
    http.delete(f"/queues/{queue}")
    assert http.post(url + "/ack").status_code == 410
    assert states(http, url) == ["dropped"] * 3


def test_a_job_that_was_delivered_before_comes_in_smaller_batches(http, queue):
    """With each attempt a quarter, in the end alone: whatever kills its consumers, each job is alone in time."""
    enqueue(http, queue, 100)
    sizes, attempts = [], 1
    for _ in range(4):
        answer = http.get(f"/queues/{queue}/next?max=100").json()
        assert {job["attempt"] for job in answer["jobs"]} == {attempts}
        sizes.append(len(answer["jobs"]))
        attempts += 1
        http.post(answer["lease"]["url"] + "/nack", json={"position": "head"})
    assert sizes == [100, 25, 6, 1]
