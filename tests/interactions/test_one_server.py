"""Cells that one server shows. Each docstring is the cell."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from tests.interactions.calls import LATE_S, Api
from tests.lab.gateway import Running, running
from tests.lab.memcache import MemcacheClient
from tests.lab.ports import free_port

POLICIES = """
[queues."back-off-*"]
retry_delay = [0.2]
[queues."back-off-parent+audit"]
retry_delay = [0.2]
[queues.back-off-ring]
retry_delay = [0.3]
[queues.back-off-raw]
format = "raw"
retry_delay = [0.2]
[queues.back-off-raw-expiry]
format = "raw"
retry_delay = [300]
[queues.back-off-key]
key = "old:back-off"
retry_delay = [0.2]
[queues.back-off-dead]
retry_delay = [0.2, 300]
max_attempts = 2
[queues.pause-key]
key = "old:pause"
[queues.several-key]
key = "old:several"
[queues.delay-dead]
max_attempts = 1
""" + "".join(
    f"""
[queues."{name}-*"]
{rule}
[queues."{name}-parent+*"]
{rule}
[queues.{name}-raw]
format = "raw"
{rule}
[queues.{name}-key]
key = "old:{name}"
{rule}
"""
    for name, rule in (("limits", "max_in_flight = 1"), ("rate", "rate = 0.001"))
)

RINGS = ["delay-ring", "back-off-ring", "pause-ring", "limits-ring", "rate-ring", "fanout-ring", "several-ring"]
FULL = ["back-off-full", "pause-full", "limits-full", "rate-full", "several-full"]
BROKER = (
    "".join(f"[queues.{each}]\nmax_items = 2\ndiscard_old_when_full = true\n" for each in RINGS)
    + "".join(f"[queues.{each}]\nmax_items = 1\n" for each in FULL)
    + '[queues."fanout-ring+all"]\nmax_items = 100\n'
)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway with policies, on a broker with rings and small queues, which memcache clients can reach."""
    directory = tmp_path_factory.mktemp("interactions")
    (directory / "queues.toml").write_text(POLICIES)
    (directory / "broker.toml").write_text(BROKER)
    listen = f"127.0.0.1:{free_port()}"
    flags = ("--queues", str(directory / "queues.toml"), "--broker-config", str(directory / "broker.toml"))
    with running(directory / "data", *flags, "--broker-listen", listen) as made:
        made.memcache_address = ("127.0.0.1", int(listen.rpartition(":")[2]))
        yield made


@pytest.fixture(scope="module")
def api(gateway: Running) -> Iterator[Api]:
    with gateway.client() as http:
        yield Api(http)


@pytest.fixture(scope="module")
def memcache(gateway: Running) -> Iterator[MemcacheClient]:
    assert gateway.memcache_address is not None
    with contextlib.closing(MemcacheClient("{}:{}".format(*gateway.memcache_address))) as client:
        yield client


def test_delay_ring_queue(api: Api) -> None:
    """When the job is due, it takes the place of the oldest one."""
    api.put("delay-ring", 1, 2)
    assert api.http.post("/queues/delay-ring/jobs?delay=0.2", json=3).status_code == 201
    assert api.items("delay-ring") == 2
    deadline_s = time.monotonic() + LATE_S
    while api.http.get("/queues/delay-ring/peek").json()["data"] == 1:
        assert time.monotonic() < deadline_s
        time.sleep(0.005)
    assert api.values("delay-ring", 2) == [2, 3]


def test_delay_dead_letters(api: Api) -> None:
    """A nack with `delay` after the last attempt makes a dead letter at once. A redriven job is not delayed."""
    assert api.http.post("/queues/delay-dead/jobs?delay=0.2", json=1).status_code == 201
    assert api.nack(api.take("delay-dead"), delay=300) == {"position": "dead"}
    assert api.dead("delay-dead") == 1
    api.redrive("delay-dead")
    assert api.take("delay-dead", 0)["attempt"] == 1


def test_back_off_raw_queue(api: Api) -> None:
    """A nacked job stays set aside until it is due. After an expired lease, a job is back at once."""
    api.put("back-off-raw-expiry", 1)
    assert api.next("back-off-raw-expiry", lease_s=1).status_code == 200
    api.put("back-off-raw", 1)
    nacked = api.nack(api.take("back-off-raw"))
    assert nacked["position"] == "head"
    assert api.take_when_due("back-off-raw", nacked)["attempt"] == 2
    assert api.take("back-off-raw-expiry")["attempt"] == 2


def test_back_off_subscription(api: Api) -> None:
    """A job comes back to its subscription only. A job of a queue that has subscriptions stays set aside until it is
    due."""
    audit, mail = api.subscribe("back-off-parent"), api.subscribe("back-off-parent", "mail")
    api.put("back-off-parent", 1)
    nacked = {each: api.nack(api.take(each)) for each in (audit, "back-off-parent")}
    assert [each["position"] for each in nacked.values()] == ["tail", "head"]
    assert [api.take_when_due(*each)["attempt"] for each in nacked.items()] == [2, 2]
    assert api.items(mail) == 1


def test_back_off_ring_queue(api: Api) -> None:
    """Once the ring has discarded a job, a nacked job stays set aside until it is due. Before, it waits outside the
    queue."""
    api.put("back-off-ring", 1)
    job = api.take("back-off-ring")
    api.put("back-off-ring", 2)
    assert api.nack(job)["position"] == "tail"
    api.wait_for_items("back-off-ring", 2)
    api.put("back-off-ring", 3)
    job = api.take("back-off-ring")
    assert (job["data"], job["attempt"]) == (1, 2)
    api.ack(api.take("back-off-ring"))
    nacked = api.nack(job)
    assert nacked["position"] == "head"
    assert api.take_when_due("back-off-ring", nacked)["data"] == 1


def test_back_off_full_queue(api: Api) -> None:
    """The job waits outside the queue. If the queue is full when it is due, it tries again every 5 seconds."""
    api.put("back-off-full", 1)
    job = api.take("back-off-full")
    api.put("back-off-full", 2)
    assert api.nack(job)["position"] == "tail"
    assert api.values("back-off-full", 2) == [2, 1]


def test_back_off_ordering_key(api: Api) -> None:
    """Later jobs of the key pass a job that waits. A nack with `"position": "head"` keeps the order."""
    api.put("back-off-order", 1, 2, 3, ordering_key="k")
    api.nack(api.take("back-off-order"), position="head")
    api.nack(api.take("back-off-order"))
    assert api.values("back-off-order", 3) == [2, 3, 1]


def test_back_off_idempotency_key(api: Api) -> None:
    """A repeated request gets the first answer while the job waits, and adds no job."""
    first = api.put("back-off-once", 1, idempotency_key="back-off")
    api.nack(api.take("back-off-once"))
    again = api.put("back-off-once", 1, idempotency_key="back-off")
    assert (again["id"], again["replayed"]) == (first["id"], "true")
    assert api.take("back-off-once")["id"] == first["id"]
    assert api.items("back-off-once") == 0


def test_back_off_own_key(api: Api, memcache: MemcacheClient) -> None:
    """The job comes back under the key."""
    api.put("back-off-key", 1)
    assert api.nack(api.take("back-off-key"))["position"] == "tail"
    assert memcache.get(f"old:back-off/t={LATE_S * 1000}") is not None


def test_back_off_dead_letters(api: Api) -> None:
    """The last attempt makes a dead letter at once. A redriven job begins with attempt 1 and the first delay."""
    api.put("back-off-dead", 1)
    api.nack(api.take("back-off-dead"))
    assert api.nack(api.take("back-off-dead")) == {"position": "dead"}
    api.redrive("back-off-dead")
    assert api.nack(api.take("back-off-dead", 0))["position"] == "tail"
    assert api.take("back-off-dead")["attempt"] == 2


def test_pause_ring_queue(api: Api) -> None:
    """New jobs still discard the oldest ones."""
    api.put("pause-ring", 1, 2)
    api.pause("pause-ring")
    api.put("pause-ring", 3)
    api.resume("pause-ring")
    assert api.values("pause-ring", 2) == [2, 3]


def test_pause_full_queue(api: Api) -> None:
    """`503 queue-full`: a paused queue accepts jobs until it is full."""
    api.put("pause-full", 1)
    api.values("pause-full", 1)
    api.pause("pause-full")
    api.put("pause-full", 2)
    assert api.refused("pause-full", 3) == "queue-full"
    api.resume("pause-full")
    assert api.values("pause-full", 1) == [2]


def test_pause_idempotency_key(api: Api) -> None:
    """A repeated request gets the first answer, and one job waits."""
    first = api.put("pause-once", 1, idempotency_key="pause")
    api.pause("pause-once")
    again = api.put("pause-once", 1, idempotency_key="pause")
    assert (again["id"], again["replayed"]) == (first["id"], "true")
    assert api.items("pause-once") == 1


def test_pause_own_key(api: Api, memcache: MemcacheClient) -> None:
    """The queue is paused by its name. A memcache client can still take its jobs under the key."""
    api.put("pause-key", 1)
    api.pause("pause-key")
    assert memcache.get("old:pause") is not None


def test_limits_raw_queue(api: Api) -> None:
    """Its jobs count like any others."""
    api.put("limits-raw", 1, 2)
    job = api.take("limits-raw", 0)
    assert api.limited("limits-raw")
    api.ack(job)
    assert api.next("limits-raw").status_code == 200


def test_limits_subscription(api: Api) -> None:
    """A queue and each of its subscriptions count for themselves, by their own tables."""
    queues = ["limits-parent", api.subscribe("limits-parent"), api.subscribe("limits-parent", "mail")]
    api.put("limits-parent", 1, 2)
    for each in queues:
        api.take(each, 0)
        assert api.limited(each)


def test_limits_ring_queue(api: Api) -> None:
    """A ring never discards a leased job."""
    api.put("limits-ring", 1)
    job = api.take("limits-ring", 0)
    api.put("limits-ring", 2, 3, 4)
    assert api.limited("limits-ring")
    api.ack(job)
    assert api.values("limits-ring", 2) == [3, 4]


def test_limits_full_queue(api: Api) -> None:
    """A leased job counts for `max_in_flight`, not for the size of the queue."""
    api.put("limits-full", 1)
    job = api.take("limits-full", 0)
    api.put("limits-full", 2)
    assert api.refused("limits-full", 3) == "queue-full"
    assert api.limited("limits-full")
    api.ack(job)
    assert api.values("limits-full", 1) == [2]


def test_limits_idempotency_key(api: Api) -> None:
    """Limits count deliveries, not requests. A repeated request adds no job."""
    for _ in range(3):
        api.put("limits-once", 1, idempotency_key="limits")
    api.values("limits-once", 1)
    answer = api.next("limits-once")
    assert (answer.status_code, "queue-limited" in answer.headers) == (204, False)


def test_limits_own_key(api: Api, memcache: MemcacheClient) -> None:
    """The limits of the queue apply. Jobs that a memcache client takes under the key do not count."""
    api.put("limits-key", 1, 2, 3)
    assert memcache.get("old:limits/open") is not None
    api.take("limits-key", 0)
    assert api.limited("limits-key")
    assert memcache.get("old:limits/abort") is None


def test_limits_dead_letters(api: Api) -> None:
    """A dead letter does not count. A redriven job counts again."""
    api.put("limits-dead", 1, 2)
    api.reject(api.take("limits-dead", 0))
    job = api.take("limits-dead", 0)
    assert job["data"] == 2
    api.redrive("limits-dead")
    assert api.limited("limits-dead")
    api.ack(job)
    api.take("limits-dead", 0)
    assert api.limited("limits-dead")


def test_rate_raw_queue(api: Api) -> None:
    """Its jobs count like any others."""
    api.put("rate-raw", 1, 2)
    api.ack(api.take("rate-raw", 0))
    assert api.limited("rate-raw", "rate")


def test_rate_subscription(api: Api) -> None:
    """A queue and each of its subscriptions have a rate of their own, by their own tables."""
    queues = ["rate-parent", api.subscribe("rate-parent"), api.subscribe("rate-parent", "mail")]
    api.put("rate-parent", 1, 2)
    for each in queues:
        api.values(each, 1)
        assert api.limited(each, "rate")


def test_rate_ring_queue(api: Api) -> None:
    """While jobs wait for the rate, new jobs discard the oldest ones."""
    api.put("rate-ring", 1)
    api.values("rate-ring", 1)
    api.put("rate-ring", 2, 3, 4)
    assert api.limited("rate-ring", "rate")
    assert api.http.get("/queues/rate-ring/peek").json()["data"] == 3


def test_rate_full_queue(api: Api) -> None:
    """`503 queue-full`: a job that waits for the rate needs room."""
    api.put("rate-full", 1)
    api.values("rate-full", 1)
    api.put("rate-full", 2)
    assert api.limited("rate-full", "rate")
    assert api.refused("rate-full", 3) == "queue-full"


def test_rate_idempotency_key(api: Api) -> None:
    """The rate counts deliveries, not requests. A repeated request adds no job."""
    for _ in range(3):
        api.put("rate-once", 1, idempotency_key="rate")
    api.values("rate-once", 1)
    assert api.items("rate-once") == 0


def test_rate_own_key(api: Api, memcache: MemcacheClient) -> None:
    """The rate of the queue applies. Jobs that a memcache client takes under the key do not count."""
    api.put("rate-key", 1, 2, 3)
    assert memcache.get("old:rate") is not None
    api.values("rate-key", 1)
    assert api.limited("rate-key", "rate")
    assert memcache.get("old:rate") is not None


def test_rate_dead_letters(api: Api) -> None:
    """A redriven job counts again, like every delivery."""
    api.put("rate-dead", 1)
    api.reject(api.take("rate-dead", 0))
    api.redrive("rate-dead")
    assert api.limited("rate-dead", "rate")
    assert api.items("rate-dead") == 1


def test_fanout_subscription(api: Api) -> None:
    """`400`: a subscription has no subscriptions."""
    name = api.subscribe("fanout-twice")
    answer = api.http.put(f"/queues/{name}/subscriptions/more")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-name")


def test_fanout_ring_queue(api: Api) -> None:
    """A subscription is a ring, too, unless the server's configuration sets other limits for it. Each discards its
    own jobs."""
    ring, every = api.subscribe("fanout-ring", "ring"), api.subscribe("fanout-ring", "all")
    api.put("fanout-ring", 1)
    api.values(ring, 1)
    api.put("fanout-ring", 2, 3)
    assert [api.values("fanout-ring", 2), api.values(ring, 2), api.values(every, 3)] == [[2, 3], [2, 3], [1, 2, 3]]
    assert [api.items(each) for each in ("fanout-ring", ring, every)] == [0, 0, 0]


def test_fanout_idempotency_key(api: Api) -> None:
    """A repeated request adds no copies."""
    name = api.subscribe("fanout-once")
    for _ in range(3):
        api.put("fanout-once", 1, idempotency_key="fanout")
    assert [api.items(each) for each in (name, "fanout-once")] == [1, 1]


def test_several_ring_queue(api: Api) -> None:
    """A ring is served in its order."""
    api.put("several-ring", 1, 2, 3)
    assert api.first_of("several-high", "several-ring").json()["data"] == 2
    api.put("several-high", 9)
    assert [api.first_of("several-high", "several-ring").json()["data"] for _ in range(2)] == [9, 3]


def test_several_full_queue(api: Api) -> None:
    """A job that is taken makes room at once."""
    api.put("several-full", 1)
    assert api.refused("several-full", 2) == "queue-full"
    assert api.first_of("several-none", "several-full").json()["data"] == 1
    api.put("several-full", 2)


def test_several_idempotency_key(api: Api) -> None:
    """The key is for enqueues. `POST /next` ignores it."""
    api.put("several-once", 1, 2)
    for number in (1, 2):
        body = {"queues": ["several-none", "several-once"], "timeout": 0}
        answer = api.http.post("/next", json=body, headers={"idempotency-key": "several"})
        assert answer.json()["jobs"][0]["data"] == number


def test_several_own_key(api: Api) -> None:
    """Request and answer name the queue, not its key."""
    api.put("several-key", 1)
    assert api.first_of("several-none", "several-key").headers["queue-name"] == "several-key"
    assert api.first_of("several-none", "old:several").json()["code"] == "invalid-parameter"


def test_several_dead_letters(api: Api) -> None:
    """A rejected job becomes a dead letter of the queue that the answer names."""
    api.put("several-dead", 1)
    api.reject(api.first_of("several-none", "several-dead").json())
    assert (api.dead("several-dead"), api.dead("several-none")) == (1, 0)
