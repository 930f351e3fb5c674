"""Subscriptions over HTTP on the embedded broker: what reads them, what refuses them, and what they inherit."""

import contextlib
import threading
import time

import pytest

from tests.api.keyring import Keyring
from tests.lab import plain
from tests.lab.broker import BrokerProcess
from tests.lab.gateway import running
from tests.lab.memcache import MemcacheClient
from tests.lab.ports import free_port

pytestmark = pytest.mark.usefixtures("ledger_balances")

POLICIES = """
[queues.bytes]
format = "raw"
max_attempts = 9
[queues."bytes+audit"]
lease = 7
max_attempts = 1
[queues."legacy"]
key = "old:legacy"
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    """A gateway with two workers and policies, whose broker memcache clients can reach."""
    directory = tmp_path_factory.mktemp("fanout")
    (directory / "queues.toml").write_text(POLICIES)
    (directory / "broker.toml").write_text('[queues."small+tiny"]\nmax_items = 1\n[queues.only]\nfanout_only = true\n')
    listen = f"127.0.0.1:{free_port()}"
    flags = ("--queues", str(directory / "queues.toml"), "--broker-listen", listen)
    with running(
        directory / "data", *flags, "--broker-config", str(directory / "broker.toml"), "--workers", "2"
    ) as made:
        made.memcache_address = ("127.0.0.1", int(listen.rpartition(":")[2]))
        yield made


@pytest.fixture
def http(gateway):
    with gateway.client() as client:
        yield client


@pytest.fixture
def memcache(gateway):
    with contextlib.closing(MemcacheClient("{}:{}".format(*gateway.memcache_address))) as client:
        yield client


def names(memcache) -> set[str]:
    """The queues that the broker has."""
    memcache.send(b"dump_stats\r\n")
    lines = memcache.read_until(b"END\r\n").decode().splitlines()
    return {line[7:-3] for line in lines if line.startswith("queue '")}


def subscribe(http, queue: str, child: str = "audit") -> str:
    """A new subscription's name."""
    answer = http.put(f"/queues/{queue}/subscriptions/{child}")
    assert answer.status_code == 201, answer.text
    return answer.json()["name"]


def test_each_subscription_gets_each_job_once(http, queue):
    """A copy for the queue and for each subscription, which are acked apart; earlier jobs are not copied."""
    http.post(f"/queues/{queue}/jobs", json="before")
    children = [subscribe(http, queue, child) for child in ("audit", "mail")]
    sent = [http.post(f"/queues/{queue}/jobs", json=number).json()["id"] for number in range(3)]
    for name in children:
        found = []
        while (answer := http.get(f"/queues/{name}/next?timeout=0")).status_code == 200:
            found.append(answer.json()["id"])
            assert answer.json()["queue"] == name
            assert http.post(f"/leases/{answer.json()['lease']['id']}/ack").status_code == 204
        assert found == sent
    assert http.get(f"/queues/{queue}").json()["items"] == 4


def test_creating_is_repeatable_and_listed(http, queue):
    """201, then 200; the list has names and figures; so has each one; and the list of queues shows them."""
    name = subscribe(http, queue)
    again = http.put(f"/queues/{queue}/subscriptions/audit")
    assert (again.status_code, again.json()["created"], again.json()["warnings"]) == (200, False, [])
    http.post(f"/queues/{queue}/jobs", json=1)
    [shown] = http.get(f"/queues/{queue}/subscriptions").json()["subscriptions"]
    assert (shown["name"], shown["queue"], shown["child"], shown["items"]) == (name, queue, "audit", 1)
    assert http.get(f"/queues/{queue}/subscriptions/audit").json()["items"] == 1
    listed = {each["queue"]: each["reachable"] for each in http.get(f"/queues?filter=name~{queue}*").json()["queues"]}
    assert listed == {queue: True, name: True}
    assert http.get("/queues", params={"filter": f"name={name}"}).json()["queues"][0]["queue"] == name


def test_every_way_to_write_the_path_reads_the_same_jobs(http, queue):
    """`+`, its escape, and the path without one."""
    subscribe(http, queue)
    for number in range(3):
        http.post(f"/queues/{queue}/jobs", json=number)
    paths = [
        f"/queues/{queue}+audit/next",
        f"/queues/{queue}%2Baudit/next",
        f"/queues/{queue}/subscriptions/audit/next",
    ]
    assert [http.get(f"{path}?timeout=1").json()["data"] for path in paths] == [0, 1, 2]
    assert http.get(f"/queues/{queue}/subscriptions/audit/peek").json()["code"] == "queue-empty"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "next?timeout=0"),
        ("POST", "leases"),
        ("GET", "peek"),
        ("POST", "flush"),
        ("POST", "redrive"),
        ("GET", "dead-letters"),
        ("GET", "dead-letters/peek"),
        ("GET", ""),
        ("DELETE", ""),
    ],
)
def test_an_unknown_subscription_is_not_created(http, memcache, queue, method, path):
    """A typing error is a 404 and leaves no subscription behind, which would collect jobs for ever."""
    http.post(f"/queues/{queue}/jobs", json=1)
    for base in (f"/queues/{queue}+typo", f"/queues/{queue}/subscriptions/typo"):
        answer = http.request(method, f"{base}/{path}".rstrip("/"))
        assert (answer.status_code, answer.json()["code"]) == (404, "queue-not-found")
    assert names(memcache) & {f"{queue}+typo", f"{queue}__typo__subdead"} == set()


@pytest.mark.parametrize("path", ["jobs", "jobs/batch", "events"])
def test_jobs_are_published_to_the_queue_only(http, queue, path):
    """The answer says where."""
    subscribe(http, queue)
    headers = {"content-type": "application/cloudevents+json"} if path == "events" else {}
    for base in (f"/queues/{queue}+audit", f"/queues/{queue}/subscriptions/audit"):
        answer = http.post(f"{base}/{path}", content="{}", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-name")
        assert f"enqueue to '{queue}'" in answer.json()["detail"]


@pytest.mark.parametrize("method", ["PUT", "GET", "DELETE"])
def test_what_is_no_name_is_refused(http, memcache, queue, method):
    """No byte of it reaches Kestrel."""
    for child in ("a.b", "a+b", "dead", "a__b", "-a", "a" * 65, "%20", "%0d%0a", "a%2fb", "*"):
        answer = http.request(method, f"/queues/{queue}/subscriptions/{child}")
        assert answer.status_code in (400, 404), (child, answer.text)
        assert answer.json()["code"] in ("invalid-name", "not-found"), child
    assert not [name for name in names(memcache) if name.startswith(f"{queue}+")]


@pytest.mark.parametrize("body", ["", " { }\n", "null"])
def test_a_subscription_has_nothing_to_set(http, memcache, queue, body):
    """A body is empty or an empty object; members that would have no effect are refused, and create nothing."""
    path, headers = f"/queues/{queue}/subscriptions/audit", {"content-type": "application/json"}
    for wrong in ('{"max_items":5}', "[]", "x" * 99):
        answer = http.put(path, content=wrong, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-body")
    assert http.put(path, content="{" * 100_000, headers=headers).status_code == 413
    assert f"{queue}+audit" not in names(memcache)
    assert http.put(path, content=body, headers=headers).status_code == 201


def test_a_deleted_subscription_ends_its_polls_and_leases(http, gateway, memcache, queue):
    """A poll on each worker ends at once, a lease is gone, and nothing creates the subscription again."""
    name = subscribe(http, queue)
    http.post(f"/queues/{queue}/jobs", json=1)
    lease = http.get(f"/queues/{name}/next?timeout=1").json()["lease"]["id"]
    ended = []

    def poll() -> None:
        with gateway.client() as own:
            ended.append(own.get(f"/queues/{name}/next?timeout=30").status_code)

    polls = [threading.Thread(target=poll) for _ in range(6)]
    for each in polls:
        each.start()
    while http.get(f"/queues/{name}?missing=zero").json()["waiters"] < len(polls):
        time.sleep(0.01)
    began_s = time.monotonic()
    answer = http.delete(f"/queues/{queue}/subscriptions/audit")
    assert (answer.status_code, answer.json()) == (200, {"queue": name, "leases_ended": 1})
    for each in polls:
        each.join(20)
    assert ended == [204] * 6
    assert time.monotonic() - began_s < 20, "the polls have 30 s"
    assert http.post(f"/leases/{lease}/nack").json()["code"] == "queue-deleted"
    assert name not in names(memcache)
    assert http.delete(f"/queues/{name}").status_code == 404
    assert http.get(f"/queues/{queue}").json()["items"] == 1, "the queue stays"


def test_a_subscription_has_attempts_leases_and_dead_letters_of_its_own(http):
    """Its table says so; its format is that of its queue."""
    subscribe(http, "bytes")
    http.post("/queues/bytes/jobs", content=b"\x00\xff")
    job = http.get("/queues/bytes+audit/next?timeout=1").json()
    assert (job["content_type"], job["data_base64"]) == ("application/octet-stream", "AP8=")
    assert http.post(f"/leases/{job['lease']['id']}/nack").json() == {"position": "dead"}
    assert http.get("/queues/bytes+audit/dead-letters").json()["items"] == 1
    assert http.get("/queues/bytes/dead-letters").json()["items"] == 0
    assert http.post("/queues/bytes+audit/redrive").json()["redriven"] == 1
    assert http.get("/queues/bytes+audit").json()["items"] == 1
    assert http.get("/queues/bytes").json()["items"] == 1, "a redrive reaches only the subscription"


def test_a_subscription_of_a_queue_with_a_key(http, memcache):
    """Its key begins with that of the queue."""
    subscribe(http, "legacy")
    assert "old:legacy+audit" in names(memcache)
    http.post("/queues/legacy/jobs", json=1)
    assert http.get("/queues/legacy+audit/next?timeout=1").json()["data"] == 1


def test_a_full_subscription_refuses_the_job_for_all(http):
    """On the embedded broker a job is stored with all of its copies or not at all."""
    for child in ("tiny", "large"):
        subscribe(http, "small", child)
    answers = [http.post("/queues/small/jobs", json=number) for number in range(3)]
    assert [each.status_code for each in answers] == [201, 503, 503]
    assert answers[1].json()["code"] == "queue-full"
    assert [http.get(f"/queues/small{each}").json()["items"] for each in ("", "+tiny", "+large")] == [1, 1, 1]


def test_a_hundred_subscriptions(http, memcache):
    """The embedded broker has no limit, and every one of them gets the job; the queue itself keeps none."""
    for number in range(98):
        assert memcache.get(f"only+c{number}/peek") is None
    for number in (98, 99):
        subscribe(http, "only", f"c{number}")
    assert http.post("/queues/only/jobs", json=1).status_code == 201
    shown = http.get("/queues/only/subscriptions").json()["subscriptions"]
    assert [each["items"] for each in shown] == [1] * 100
    assert http.get("/queues/only").json()["items"] == 0


def test_a_separate_broker_has_no_limit_of_subscriptions(tmp_path):
    """Like the embedded one: `--kestrel-max-subscriptions` is for Kestrel."""
    with (
        BrokerProcess(tmp_path / "broker", "--fsync", "off") as broker,
        running(tmp_path / "data", "--kestrel", broker.address, "--kestrel-max-subscriptions", "1") as gateway,
        plain.client(base_url=gateway.url) as http,
    ):
        for child in ("a", "b", "c"):
            assert http.put(f"/queues/q/subscriptions/{child}").status_code == 201


def test_patterns_of_keys_do_not_cover_subscriptions_unless_they_say_so(tmp_path):
    """`*` covers queues, `emails+*` subscriptions; a key without patterns covers both. Quotas count subscriptions."""
    keys = Keyring(tmp_path / "keys.toml")
    keys.add("queues", "acme", queues=["*"])
    keys.add("child", "acme", queues=["emails", "emails+a*"])
    keys.add("all", "acme")
    with (
        running(tmp_path / "data", "--keys", str(keys.path), "--max-queues", "3") as gateway,
        contextlib.ExitStack() as s,
    ):
        queues, child, every = (s.enter_context(keys.client(gateway, name)) for name in ("queues", "child", "all"))
        assert queues.put("/queues/emails/subscriptions/audit").json()["code"] == "forbidden-queue"
        assert child.put("/queues/emails/subscriptions/mail").json()["code"] == "forbidden-queue"
        assert child.put("/queues/emails/subscriptions/audit").status_code == 201
        assert every.put("/queues/emails/subscriptions/mail").status_code == 201
        assert every.post("/queues/emails/jobs", json=1).status_code == 201
        assert queues.get("/queues/emails+audit/next?timeout=0").status_code == 403
        assert child.get("/queues/emails+audit/next?timeout=0").status_code == 200
        assert [each["child"] for each in child.get("/queues/emails/subscriptions").json()["subscriptions"]] == [
            "audit"
        ]
        assert every.put("/queues/emails/subscriptions/more").json()["code"] == "too-many-queues"
        assert every.delete("/queues/emails/subscriptions/mail").status_code == 200
        assert every.put("/queues/emails/subscriptions/more").status_code == 201


def test_a_delayed_job_is_copied_when_it_is_due(http, queue):
    """Not before: until then it is on no queue of its own."""
    name = subscribe(http, queue)
    assert http.post(f"/queues/{queue}/jobs?delay=0.6", json=1).status_code == 201
    assert http.get(f"/queues/{name}/next?timeout=0").status_code == 204
    for each in (queue, name):
        assert http.get(f"/queues/{each}/next?timeout=5").json()["data"] == 1


def test_one_wait_over_a_queue_and_subscriptions(http, queue):
    """`GET /next` names them; one that does not exist is a 404."""
    name = subscribe(http, queue)
    http.post(f"/queues/{queue}/jobs", json=1)
    answer = http.get("/next", params={"queue": [name, queue], "timeout": "2"})
    assert answer.json()["queue"] == name
    assert http.get("/next", params={"queue": [f"{queue}+typo", queue], "timeout": "0"}).status_code == 404


def test_a_job_that_was_nacked_for_later_is_gone_with_its_subscription(http, memcache, queue):
    """When it is due it does not create the subscription again; on a subscription that exists it comes back."""
    name, kept = subscribe(http, queue), subscribe(http, queue, "kept")
    http.post(f"/queues/{queue}/jobs", json=1)
    for each in (name, kept):
        lease = http.get(f"/queues/{each}/next?timeout=1").json()["lease"]["id"]
        answer = http.post(f"/leases/{lease}/nack", json={"delay": 1.2})
        assert answer.json()["position"] == "tail"
    assert http.delete(f"/queues/{name}").status_code == 200
    assert http.get(f"/queues/{kept}/next?timeout=10").json()["attempt"] == 2
    assert name not in names(memcache)
    assert http.get(f"/queues/{queue}").json()["items"] == 1


def test_a_job_that_was_nacked_for_later_does_not_come_to_a_new_subscription_of_the_same_name(http, queue):
    """It belongs to the deleted one. A job of the new one that is nacked comes back."""
    name = subscribe(http, queue)

    def take(data):
        job = http.get(f"/queues/{name}/next?timeout=10").json()
        assert job["data"] == data
        return job["lease"]["url"]

    http.post(f"/queues/{queue}/jobs", json="old")
    assert http.post(take("old") + "/nack", json={"delay": 0.5}).status_code == 200
    assert http.delete(f"/queues/{name}").status_code == 200
    subscribe(http, queue)
    http.post(f"/queues/{queue}/jobs", json="new")
    assert http.post(take("new") + "/nack", json={"delay": 1}).status_code == 200
    assert http.post(take("new") + "/ack").status_code == 204, "the old one would have come before it"
    assert http.get(f"/queues/{name}").json()["backlog"] == 0
    assert http.get(f"/queues/{queue}").json()["delayed"] == 0


def test_a_deleted_queue_leaves_its_subscriptions(http, queue):
    """They keep their jobs and get later ones. While only they exist, there is no queue to delete."""
    name = subscribe(http, queue)
    assert http.delete(f"/queues/{queue}").json()["code"] == "queue-not-found", "only the subscription exists"
    http.post(f"/queues/{queue}/jobs", json=1)
    assert http.delete(f"/queues/{queue}").status_code == 200
    assert http.get(f"/queues/{queue}").status_code == 404
    http.post(f"/queues/{queue}/jobs", json=2)
    assert [http.get(f"/queues/{name}/next?timeout=5&ack=auto").json()["data"] for _ in range(2)] == [1, 2]


def test_what_needs_no_subscription_is_answered_for_an_unknown_one(http, memcache, queue):
    """Its policy, the end of a pause, and its figures with `missing=zero`. None of them creates it."""
    unknown = f"{queue}+nosuch"
    http.post(f"/queues/{queue}/jobs", json=1)
    assert http.get(f"/queues/{unknown}?missing=zero").json()["items"] == 0
    assert http.get(f"/queues/{unknown}/policy").status_code == 200
    assert http.delete(f"/queues/{unknown}/pause").json()["paused"] is False
    assert unknown not in names(memcache)
