"""The age of a queue's oldest waiting job over HTTP, by the time in the job and not by what was read last."""

import itertools
import json
import time

import pytest

from gateway.envelope.times import instant, timestamp
from tests.api.test_leases import take
from tests.cluster.rig import before, brokers
from tests.lab.gateway import running
from tests.lab.waiting import until
from tests.lab.workers import client_of_each

FLAGS = ("--workers", "2", "--queue-figures-interval", "0.2")
HOUR_S = 3600


def item(hours):
    """A job that was stored so many hours ago."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - hours * HOUR_S))
    event = {"specversion": "1.0", "id": "a", "source": "s", "type": "t", "time": at, "enqueued": at, "data": 1}
    return json.dumps(event).encode()


def hours(figures):
    return figures["age_s"] // HOUR_S


def becomes(workers, ask, expected):
    """Waits until every worker answers so."""
    until(
        lambda: all(ask(worker) == expected for worker in workers),
        lambda: f"{[ask(worker) for worker in workers]}, not {expected}",
    )


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    with brokers(tmp_path_factory.mktemp("brokers"), 2) as both:
        yield both


@pytest.fixture(scope="module")
def workers(servers, tmp_path_factory):
    """A client of each of a gateway's two workers."""
    with before(tmp_path_factory.mktemp("aged"), servers, *FLAGS) as gateway, client_of_each(gateway, 2) as clients:
        yield clients


@pytest.fixture
def http(workers):
    return workers[0]


def test_a_queue_has_the_age_of_its_oldest_waiting_job(servers, workers, http):
    """Of all servers and of each, also if nobody reads it; then that of the next job, and 0 without one. Lists, filters
    and the order use it, too."""
    one, two = (server.client() for server in servers)
    for client, ages in ((one, (5, 3)), (two, (1,))):
        for each in ages:
            client.put("unread", item(each))
    two.put("younger", item(2))

    def single():
        found = http.get("/queues/unread?detail=servers").json()
        assert hours(http.get("/queues/unread").json()) == hours(found)
        return hours(found), {each["server"]: hours(each) for each in found["servers"]}

    def listed(query):
        def ask(worker):
            found = worker.get(f"/queues?{query}").json()["queues"]
            return [(each["queue"], hours(each)) for each in found]

        return ask

    assert single() == (5, {servers[0].address: 5, servers[1].address: 1})
    becomes(workers, listed("sort=-age_s"), [("unread", 5), ("younger", 2)])
    becomes(workers, listed(f"filter=age>={4 * HOUR_S}"), [("unread", 5)])
    one.get("unread")
    assert single() == (3, {servers[0].address: 3, servers[1].address: 1})
    one.get("unread")
    assert single() == (1, {servers[0].address: 0, servers[1].address: 1})
    becomes(workers, listed("sort=-age"), [("younger", 2), ("unread", 1)])
    two.get("unread")
    assert single() == (0, {servers[0].address: 0, servers[1].address: 0})
    becomes(workers, listed("filter=age=0&filter=name=unread"), [("unread", 0)])


def test_a_subscription_has_the_age_of_its_oldest_waiting_job(servers, workers, http):
    """By itself, in the list, and as a queue."""
    assert http.put("/queues/news/subscriptions/audit").status_code == 201
    servers[0].client().put("news", item(4))
    for path in ("/queues/news/subscriptions/audit", "/queues/news+audit"):
        assert hours(http.get(path).json()) == 4
    subscriptions = "/queues/news/subscriptions"
    becomes(workers, lambda each: [hours(one) for one in each.get(subscriptions).json()["subscriptions"]], [4])
    servers[0].client().get("news+audit")
    assert http.get("/queues/news/subscriptions/audit").json()["age_s"] == 0


def test_a_delayed_job_waits_from_when_it_is_due(servers, http):
    """Also by a nack, and a redriven job from its redrive: the age, and what the event says."""
    event = json.loads(item(6)) | {"readytime": "2020-01-31T12:00:00Z"}  # a producer's own is dropped
    headers = {"content-type": "application/cloudevents+json", "accept": "application/cloudevents+json"}
    due_at = http.post("/queues/later/jobs?delay=0.5", content=json.dumps(event), headers=headers).json()["due_at"]

    def taken():
        """Once the job waits: the id of its lease, and since when it waits. Its age is not more than that."""
        found = {}
        until(lambda: found.update(http.get("/queues/later?missing=zero").json()) or found["items"])
        assert 0 <= found["age_s"] <= time.time() - instant(due_at) + 0.001
        job = http.get("/queues/later/next", headers=headers)
        return job.headers["lease-id"], job.json()["readytime"]

    lease, ready_at = taken()
    assert ready_at == due_at
    due_at = http.post(f"/leases/{lease}/nack", json={"delay": 0.5}).json()["due_at"]
    lease, ready_at = taken()
    assert ready_at == due_at
    assert http.post(f"/leases/{lease}/reject").status_code == 204
    due_at = timestamp(time.time())
    assert http.post("/queues/later/redrive").json()["redriven"] == 1
    lease, ready_at = taken()
    assert due_at <= ready_at <= timestamp(time.time())
    assert http.post(f"/leases/{lease}/ack").status_code == 204


def test_dead_letters_have_the_time_since_the_oldest_became_one(servers, http):
    """Not the time since its enqueue, and not how long the server has had it."""
    began_s = time.time()
    servers[0].client().put("failing", item(6))
    assert http.post(take(http, "failing")["lease"]["url"] + "/reject").status_code == 204
    assert 0 <= http.get("/queues/failing/dead-letters").json()["age_s"] <= time.time() - began_s + 0.001
    letter = json.loads(item(6)) | {"deadtime": json.loads(item(2))["time"], "deadqueue": "moved"}
    servers[1].client().put("moved__dead", json.dumps(letter).encode())
    assert hours(http.get("/queues/moved/dead-letters").json()) == 2


def test_the_embedded_broker_has_the_same_ages(tmp_path):
    """A queue that was never read grows old; when its oldest job is taken, the next one counts."""
    with (
        running(tmp_path, *FLAGS) as gateway,
        client_of_each(gateway, 2) as workers,
    ):
        http = workers[0]
        http.post("/queues/q/jobs", json=1).raise_for_status()
        stored_s = time.time()

        def age_s(worker, path):
            asked_s = time.time()
            found = worker.get(path).json()
            told_s = found.get("queues", [found])[0]["age_s"]
            if path == "/queues/q":
                assert told_s >= asked_s - stored_s - 0.001
            return told_s

        paths = ("/queues/q", "/queues")
        until(lambda: all(age_s(worker, path) >= 0.5 for worker, path in itertools.product(workers, paths)))
        young_s = time.time()
        http.post("/queues/q/jobs", json=2).raise_for_status()
        stored_s = time.time()
        lease = take(http, "q")["lease"]["url"]
        asked_s = time.time()
        younger_s = http.get("/queues/q").json()["age_s"]
        assert asked_s - stored_s - 0.001 <= younger_s <= time.time() - young_s + 0.001
        assert http.post(lease + "/nack").status_code == 204
