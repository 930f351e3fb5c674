"""Batches that are taken at one replica and settled at another, before a server that speaks memcache."""

from __future__ import annotations

import pytest

from tests.batches.test_batches import enqueue, left, states, take
from tests.leases.cluster import clustered
from tests.streams.reader import StreamReader

pytestmark = pytest.mark.usefixtures("ledger_balances")


@pytest.fixture(scope="module")
def replicas(tmp_path_factory):
    """Two replicas, one with two workers."""
    with clustered(tmp_path_factory.mktemp("replicas")) as cluster:
        yield [cluster.start("--kestrel-open-reads", "100", *flags) for flags in (("--workers", "2"), ())]


@pytest.fixture(params=[0, 1], ids=["of the two workers", "of the one worker"])
def pair(request, replicas):
    """Clients of the replica that takes, and of the other one."""
    taking, other = replicas[request.param], replicas[1 - request.param]
    with taking.client() as here, other.client() as there:
        yield here, there


def test_every_command_reaches_the_owner(pair, queue):
    """Checkpoint, extension, settlement, and the state of each job; again, the same answers."""
    here, there = pair
    enqueue(here, queue, 6)
    numbers, url = take(here, queue)
    assert numbers == list(range(6))
    assert there.post(url + "/ack", json={"upto": 2}).status_code == 204
    assert there.post(url + "/ack", json={"upto": 9}).json()["code"] == "invalid-body"
    extended = there.post(url + "/extend", json={"lease_seconds": 30}).json()
    assert [job["state"] for job in extended["jobs"]] == ["acked"] * 2 + ["held"] * 4
    assert there.post(url + "/settle", json={"rest": "ack", "acks": [{"id": "x"}]}).status_code == 400
    wanted = {"rest": "ack", "nacks": [{"job": 3, "reason": "busy"}], "rejects": [{"job": 5, "reason": "bad"}]}
    settled = there.post(url + "/settle", json=wanted)
    assert [each["status"] for each in settled.json()["results"]] == [204] * 6
    assert here.post(url + "/settle", json=wanted).json() == settled.json()
    for http in pair:
        assert states(http, url) == ["acked", "acked", "acked", "nacked", "acked", "rejected"]
        conflict = http.post(url + "/ack")
        assert conflict.status_code == 409
        assert "4 acked, 1 nacked, 1 rejected" in conflict.json()["detail"]
    assert left(there, queue) == [3]
    assert there.get(f"/queues/{queue}/dead-letters/peek").json()["data"] == 5


def test_one_request_acks_a_batch_of_another_replica_and_takes_the_next(pair, queue):
    """Each job once, by turns."""
    enqueue(pair[0], queue, 90)
    seen, ack = [], {}
    for turn in range(3):
        numbers, url = take(pair[turn % 2], queue, 30, **ack)
        seen += numbers
        ack = {"ack": url.rpartition("/")[2]}
    assert pair[1].get(f"/queues/{queue}/next", params={"max": 5, "timeout": 0} | ack).status_code == 204
    assert seen == list(range(90))
    assert pair[0].get(f"/queues/{queue}").json()["backlog"] == 0


@pytest.mark.parametrize("verb", ["nack", "reject"])
def test_all_jobs_of_a_batch_at_once(pair, queue, verb):
    """The whole batch is given back or rejected through the other replica."""
    here, there = pair
    enqueue(here, queue, 4)
    _, url = take(here, queue)
    for _ in range(2):
        assert there.post(f"{url}/{verb}", json={}).status_code == 204
    assert states(here, url) == [f"{verb}ed"] * 4
    assert sorted(left(there, queue)) == ([0, 1, 2, 3] if verb == "nack" else [])


def test_the_jobs_of_a_stream(pair, replicas, queue):
    """Their leases are settled together through the other replica, and the stream goes on."""
    here, there = pair
    enqueue(here, queue, 6)
    streaming = next(each for each in replicas if str(each.port) in str(here.base_url))
    with StreamReader(streaming, f"/queues/{queue}/stream?window=3") as stream:
        stream.next("open")
        first = [job["lease"]["id"] for job in stream.jobs(3)]
        wanted = {"acks": first[:2], "nacks": [{"lease": first[2], "delay": 60}]}
        assert there.post("/leases/settle", json=wanted).status_code == 200
        second = stream.jobs(3)
        assert [job["data"] for job in second] == [3, 4, 5]
        assert there.post("/leases/settle", json={"acks": [job["lease"]["id"] for job in second]}).status_code == 200
    assert left(there, queue) == []
