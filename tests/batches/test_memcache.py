"""Batches on servers that speak memcache: one connection holds all jobs of a batch, and settles them in its order."""

import socket
import time

import pytest

from tests.batches.test_batches import enqueue, left, states, take
from tests.lab.broker import BrokerProcess
from tests.lab.examples import some
from tests.lab.gateway import running
from tests.lab.waiting import until

pytestmark = pytest.mark.usefixtures("ledger_balances")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server whose connections may have 100 open reads of a queue."""
    with BrokerProcess(tmp_path_factory.mktemp("many") / "data", "--fsync", "off") as broker:
        yield broker


@pytest.fixture(scope="module")
def gateway(server, tmp_path_factory):
    """A gateway in front of it, which knows that."""
    flags = ("--kestrel", server.address, "--kestrel-open-reads", "100")
    with running(tmp_path_factory.mktemp("memcache") / "data", *flags) as shared:
        yield shared


def put_raw(server, queue, data):
    """An item of a client that speaks memcache."""
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"set %b 0 0 %d\r\n%b\r\n" % (queue.encode(), len(data), data))
        assert connection.recv(100) == b"STORED\r\n"


def test_a_batch_is_acked(http, queue):
    """As on the embedded broker: up to its size, in order, and 204 once all are gone."""
    enqueue(http, queue, 130)
    numbers, url = take(http, queue)
    assert numbers == list(range(100))
    assert http.post(url + "/ack").status_code == 204
    assert states(http, url) == ["acked"] * 100
    assert left(http, queue) == list(range(100, 130))


def test_a_checkpoint(http, queue):
    """The first jobs are gone; the rest goes back when the lease ends."""
    enqueue(http, queue, 6)
    _, url = take(http, queue)
    assert http.post(url + "/ack", json={"upto": 2}).status_code == 204
    assert http.post(url + "/ack", json={"upto": 4}).status_code == 204
    assert states(http, url) == ["acked"] * 4 + ["held"] * 2
    assert http.post(url + "/nack").status_code == 204
    assert left(http, queue) == [4, 5]


def test_a_batch_takes_no_more_than_the_limit_of_leases(server, tmp_path):
    """So the jobs behind it keep their order, and each of them waits for the next batch."""
    flags = ("--kestrel", server.address, "--kestrel-open-reads", "100", "--max-tenant-leases", "5")
    with running(tmp_path / "data", *flags) as limited, limited.client() as http:
        enqueue(http, "limited", 12)
        for numbers in ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]):
            got, url = take(http, "limited")
            assert got == numbers
            assert http.get("/queues/limited").json()["open_reads"] == len(numbers)
            assert http.post(url + "/ack").status_code == 204


def test_mixed_settlements(http, queue):
    """Runs of confirms and aborts, in the order of taking: each job has what it should have."""
    enqueue(http, queue, 8)
    _, url = take(http, queue)
    wanted = {
        "nacks": [{"job": 1, "position": "head"}, {"job": 4}, {"job": 7, "position": "head"}],
        "rejects": [{"job": 2}],
        "rest": "ack",
    }
    answer = http.post(url + "/settle", json=wanted)
    assert (answer.status_code, {each["status"] for each in answer.json()["results"]}) == (200, {204})
    assert sorted(left(http, queue)) == [1, 4, 7]
    assert http.get(f"/queues/{queue}/dead-letters/peek").json()["data"] == 2


def test_jobs_that_are_not_delivered(http, queue, server):
    """Expired ones stay in the batch unseen, and are gone with it; a checkpoint counts only those that are seen."""
    enqueue(http, queue, 1)
    enqueue(http, queue, 2, 1, ttl=1)
    enqueue(http, queue, 2, 3)
    enqueue(http, queue, 1, 5, ttl=1)
    put_raw(server, queue, b"\xff raw")
    time.sleep(1.1)  # the ttl has whole seconds
    answer = http.get(f"/queues/{queue}/next?max=10").json()
    url = answer["lease"]["url"]
    assert [job.get("data") for job in answer["jobs"]] == [0, 3, 4, None]
    assert http.post(url + "/ack", json={"upto": 2}).status_code == 204
    settled = http.post(url + "/settle", json={"rest": "ack", "nacks": [{"job": 3, "delay": 60}]}).json()["results"]
    assert settled[3] == {"job": 3, "id": None, "status": 200, "position": "head"}
    assert http.get(f"/queues/{queue}/next?ack=auto").json()["id"] is None
    assert left(http, queue) == []


def test_one_request_acks_a_batch_and_takes_the_next(http, queue):
    """Each job once."""
    enqueue(http, queue, 150)
    first, url = take(http, queue, 60)
    second, url = take(http, queue, 60, ack=url.rpartition("/")[2])
    third, url = take(http, queue, 60, ack=url.rpartition("/")[2])
    assert first + second + third == list(range(150))
    http.post(url + "/ack")


def test_a_lease_expires_as_one(http, queue):
    """Its jobs are at the tail, as their next attempt."""
    enqueue(http, queue, 5)
    _, url = take(http, queue, lease_seconds=1)
    until(lambda: states(http, url) == ["expired"] * 5)
    answer = http.get(f"/queues/{queue}/next?max=100").json()
    assert sorted((job["data"], job["attempt"]) for job in answer["jobs"]) == [(number, 2) for number in range(5)]
    http.post(answer["lease"]["url"] + "/ack")


@pytest.mark.parametrize("limit", some([3, 1]))
def test_the_limit_of_a_server_is_learnt(tmp_path, limit):
    """An ERROR gives the jobs back, once; then no batch is larger, and no job is lost or comes twice."""
    with (
        BrokerProcess(tmp_path / "few", "--fsync", "off", "--max-open-reads", str(limit)) as broker,
        running(tmp_path / "data", "--kestrel", broker.address, "--kestrel-open-reads", "100") as gateway,
        gateway.client() as http,
    ):
        enqueue(http, "q", 8)
        seen: list[int] = []
        sizes = []
        while len(seen) < 8:
            numbers, url = take(http, "q")
            assert http.post(url + "/ack").status_code == 204
            seen += numbers
            sizes.append(len(numbers))
        assert (sorted(seen), max(sizes)) == (list(range(8)), limit)
        assert left(http, "q") == []


def test_without_the_setting_a_batch_has_one_job(tmp_path, server):
    """The default is that of Kestrel, where a second open read ends the connection."""
    with running(tmp_path / "data", "--kestrel", server.address) as gateway, gateway.client() as http:
        enqueue(http, "one", 2)
        numbers, url = take(http, "one")
        assert numbers == [0]
        assert http.post(url + "/settle", json={"rest": "ack"}).status_code == 200
        assert left(http, "one") == [1]
