"""The order of jobs with an Ordering-Key on servers that speak memcache, in batches and in streams."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.api.test_jobs import waiters
from tests.batches.test_batches import left, take
from tests.cluster.rig import before, brokers
from tests.lab.broker import BrokerProcess
from tests.lab.waiting import until
from tests.streams.reader import StreamReader

POLICIES = '[queues."ordered-*"]\nretry = "head"\n'
OPEN_READS = ("--kestrel-open-reads", "100")


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """Two servers that speak memcache."""
    with brokers(tmp_path_factory.mktemp("order"), 2) as many:
        yield many


@pytest.fixture(scope="module")
def gateway(servers, tmp_path_factory):
    """A gateway before both."""
    directory = tmp_path_factory.mktemp("gateway")
    (directory / "queues.toml").write_text(POLICIES)
    with before(directory, servers, "--queues", str(directory / "queues.toml"), *OPEN_READS) as made:
        yield made


@pytest.fixture(scope="module")
def http(gateway):
    """Its client."""
    with gateway.client() as client:
        yield client


def enqueue_key(http, queue, count, first=0, key="k"):
    """Numbers, in order, with an Ordering-Key."""
    jobs = {"jobs": [{"data": number} for number in range(first, first + count)]}
    assert http.post(f"/queues/{queue}/jobs/batch", json=jobs, headers={"ordering-key": key}).status_code == 201


def put_items(server: BrokerProcess, queue, *keys):
    """Events of a memcache client whose data are numbers, in order: each with this partition key, or without one."""
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port))) as connection:
        for number, key in enumerate(keys):
            event = {"specversion": "1.0", "id": f"{number}", "source": "/shop", "type": "order"}
            item = json.dumps(event | ({"partitionkey": key} if key else {}) | {"data": number}).encode()
            connection.sendall(b"set %b 0 0 %d\r\n%b\r\n" % (queue.encode(), len(item), item))
            assert connection.recv(100) == b"STORED\r\n"


def test_jobs_of_a_key_come_in_order(http, queue):
    """In each batch, and from batch to batch."""
    enqueue_key(http, queue, 25)
    seen = []
    while len(seen) < 25:
        numbers, url = take(http, queue, 10)
        seen += numbers
        assert http.post(url + "/ack").status_code == 204
    assert seen == list(range(25))


@pytest.mark.parametrize("name", ["ordered-by-key", "by-key"])
def test_a_job_of_a_key_comes_back_before_the_later_ones(http, name):
    """It is alone in its batch, whatever the policy says."""
    enqueue_key(http, name, 4)
    seen = []
    for attempt in range(8):
        numbers, url = take(http, name, 10)
        seen += numbers
        settled = http.post(url + "/nack", json={"position": "head"}) if attempt % 2 == 0 else http.post(url + "/ack")
        assert settled.status_code == 204
    assert seen == [0, 0, 1, 1, 2, 2, 3, 3]


def test_jobs_of_several_keys_come_alone(http, queue):
    """The order between keys is that of the queue of each server."""
    for number, key in enumerate("abcabc"):
        enqueue_key(http, queue, 1, number, key)
    seen = []
    while len(seen) < 6:
        numbers, url = take(http, queue, 10)
        assert len(numbers) == 1
        seen += numbers
        assert http.post(url + "/ack").status_code == 204
    for first in range(3):
        assert [number for number in seen if number % 3 == first] == [first, first + 3]


def test_the_key_is_an_attribute_of_the_job_and_its_copies(http, queue):
    """Also after a nack to the tail."""
    enqueue_key(http, queue, 1)
    for attempt in (1, 2):
        job = http.get(f"/queues/{queue}/next?timeout=5").json()
        assert (job["attempt"], job["attributes"]["partitionkey"]) == (attempt, "k")
        assert http.post(job["lease"]["url"] + ("/nack" if attempt == 1 else "/ack")).status_code == 204


def test_a_gateway_that_is_killed_keeps_the_order_of_a_key(servers, tmp_path):
    """The server puts the job of the batch back before the later ones."""
    with before(tmp_path, servers, *OPEN_READS) as gateway, gateway.client() as http:
        enqueue_key(http, "killed", 5)
        assert take(http, "killed", 10)[0] == [0]
        gateway.kill()
        gateway.start()
        assert left(http, "killed") == [0, 1, 2, 3, 4]


def test_a_queue_with_a_key_gives_one_job_at_a_time(http, queue, servers):
    """Also if the first jobs have none, because the worker has enqueued one with a key."""
    for server in servers:
        put_items(server, queue, "", "")
    enqueue_key(http, queue, 1)
    for _ in range(5):
        numbers, url = take(http, queue, 10)
        assert len(numbers) == 1
        assert http.post(url + "/ack").status_code == 204
    assert left(http, queue) == []


def test_a_batch_takes_no_more_after_the_first_key(http, queue, servers):
    """A memcache client has enqueued the jobs, so no worker knows of the keys. The next batches have one job."""
    put_items(servers[0], queue, "", "", "", "a", "a", "a", "a")
    numbers, url = take(http, queue, 10)
    assert numbers == [0, 1, 2, 3]
    assert http.post(url + "/ack").status_code == 204
    for number in (4, 5, 6):
        numbers, url = take(http, queue, 10)
        assert numbers == [number]
        assert http.post(url + "/ack").status_code == 204


def test_jobs_without_a_key_come_back_in_reverse_order(http, queue, servers):
    """Those that go back together from one connection; those behind them are not overtaken. So do jobs that were taken
    together with the first one that has a key."""
    put_items(servers[0], queue, *[""] * 5)
    numbers, url = take(http, queue, 3)
    assert numbers == [0, 1, 2]
    assert http.post(url + "/nack", json={"position": "head"}).status_code == 204
    assert left(http, queue) == [2, 1, 0, 3, 4]
    put_items(servers[0], queue, "", "", "a", "a")
    numbers, url = take(http, queue, 10)
    assert numbers == [0, 1, 2, 3]
    assert http.post(url + "/nack", json={"position": "head"}).status_code == 204
    assert left(http, queue) == [3, 2, 1, 0]


def test_with_retry_head_the_order_is_kept(http, servers):
    """A batch has one job, which comes again before the next one, also without a key."""
    put_items(servers[0], "ordered-q", *[""] * 4)
    seen = []
    for attempt in range(8):
        numbers, url = take(http, "ordered-q", 10)
        seen += numbers
        assert http.post(url + ("/nack" if attempt % 2 == 0 else "/ack")).status_code == 204
    assert seen == [0, 0, 1, 1, 2, 2, 3, 3]


def test_jobs_under_several_leases_go_back_one_by_one(http, queue):
    """Each to the head: the last one comes first."""
    enqueue_key(http, queue, 4)
    leases = [http.get(f"/queues/{queue}/next?timeout=5").json()["lease"] for _ in range(3)]
    for lease in leases:
        assert http.post(lease["url"] + "/nack", json={"position": "head"}).status_code == 204
    assert left(http, queue) == [2, 1, 0, 3]


def test_a_stream_that_is_closed_keeps_the_order_of_a_key(gateway, http, queue):
    """All jobs of its window are back before the later ones, in order."""
    enqueue_key(http, queue, 8)
    with StreamReader(gateway, f"/queues/{queue}/stream?window=5") as stream:
        stream.next("open")
        assert [job["data"] for job in stream.jobs(5)] == [0, 1, 2, 3, 4]
    until(lambda: http.get(f"/queues/{queue}").json()["open_reads"] == 0)
    assert left(http, queue) == list(range(8))


@pytest.mark.parametrize(("window", "order"), [(1, [0, 1, 2, 3, 4]), (4, [3, 0, 1, 2, 4])])
def test_a_consumer_that_waits_while_a_stream_is_closed(gateway, http, queue, servers, window, order):  # noqa: PLR0917 (fixtures)
    """It gets the last job of the window, which the server hands to it at once; and then the others in order."""
    enqueue_key(http, queue, window)
    with ThreadPoolExecutor() as pool, gateway.client() as other:
        with StreamReader(gateway, f"/queues/{queue}/stream?window={window}") as stream:
            stream.next("open")
            stream.jobs(window)
            waiting = pool.submit(other.get, f"/queues/{queue}/next?timeout=20&ack=auto")
            until(lambda: waiters(http, queue) == len(servers))
        seen = [waiting.result().json()["data"]]
    until(lambda: http.get(f"/queues/{queue}").json()["open_reads"] == 0)
    enqueue_key(http, queue, 5 - window, window)
    assert seen + left(http, queue) == order


def test_giving_back_twice_restores_the_order(queue, servers):
    """Whoever gives back, takes and gives back again what one connection holds has the first order again."""
    put_items(servers[0], queue, *[""] * 3)
    host, port = servers[0].address.split(":")
    with socket.create_connection((host, int(port)), 10) as connection, connection.makefile("rb") as answers:

        def settle(command: str) -> list[int]:
            """Sends it three times; the numbers of the jobs in the answers."""
            connection.sendall(f"get {queue}/{command}\r\n".encode() * 3)
            lines = [answers.readline() for _ in range(9 if command == "open" else 3)]
            return [json.loads(line)["data"] for line in lines if line.startswith(b"{")]

        taken = [settle(command) for command in ("open", "abort", "open", "abort", "open", "close")]
    assert taken == [[0, 1, 2], [], [2, 1, 0], [], [0, 1, 2], []]


def test_a_stream_with_a_window_of_one_keeps_the_order_of_a_key(gateway, http):
    """With `retry = "head"` a job that is nacked comes again before the next one."""
    enqueue_key(http, "ordered-stream", 3)
    seen = []
    with StreamReader(gateway, "/queues/ordered-stream/stream?window=1") as stream:
        stream.next("open")
        for attempt in range(6):
            job = stream.next()
            seen.append(job["data"])
            assert http.post(job["lease"]["url"] + ("/nack" if attempt % 2 == 0 else "/ack")).status_code == 204
    assert seen == [0, 0, 1, 1, 2, 2]
