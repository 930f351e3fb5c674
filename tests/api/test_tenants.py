"""Tenants on one Kestrel: A can neither see, take, settle nor name what is of B, and no answer gives it away."""

import contextlib
import itertools
import json
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.api.response.cursor import Cursor, mark
from tests.api.keyring import Keyring
from tests.lab.examples import examples
from tests.lab.gateway import running
from tests.lab.http import HttpClient
from tests.lab.memcache import MemcacheClient
from tests.lab.ports import free_port
from tests.lab.workers import client_of_each

QUEUE_CALLS = [
    ("POST", "/queues/{}/jobs"),
    ("GET", "/queues/{}/next?timeout=0"),
    ("GET", "/queues/{}"),
    ("GET", "/queues/{}/peek"),
    ("POST", "/queues/{}/flush"),
    ("POST", "/queues/{}/redrive"),
    ("DELETE", "/queues/{}"),
]
LEASE_CALLS = [("GET", ""), ("POST", "/ack"), ("POST", "/nack"), ("POST", "/extend")]

FORMS = ["b__{}", "B__{}", "__{}", "b__{}__dead", "{}__dead", "{}__child__subdead", "{}+child", "b__{}+child"]
FORMS += [
    "{}%2Bchild",
    "%62__{}",
    "b%5F%5F{}",
    "b%2F{}",
    "..%2Fb__{}",
    "b:{}",
    "b.{}",
    "b~{}",
    "{}%00",
    "{}%20",
    "a%0D%0Ab",
]
"""How one may try to name another's queue; each is no name at all."""


@pytest.fixture(scope="module")
def keyring(tmp_path_factory):
    ring = Keyring(tmp_path_factory.mktemp("tenants") / "keys.toml")
    ring.add("a", "a")
    ring.add("b", "b")
    ring.add("ab", "a-b")
    return ring


POLICIES = """
[queues."a/mail"]
key = "ns:mail"
[queues."b/mai*"]
max_bytes = 2
"""


@pytest.fixture(scope="module")
def shared(keyring, tmp_path_factory):
    """One gateway for all tenants, with two workers; memcache clients reach its broker, too."""
    port = free_port()
    folder = tmp_path_factory.mktemp("shared")
    (folder / "queues.toml").write_text(POLICIES)
    flags = ("--keys", str(keyring.path), "--queues", str(folder / "queues.toml"))
    with running(folder / "data", *flags, "--workers", "2", "--broker-listen", f"127.0.0.1:{port}") as gateway:
        gateway.memcache_address = "127.0.0.1", port
        yield gateway


@pytest.fixture
def a(shared, keyring):
    with keyring.client(shared, "a") as http:
        yield http


@pytest.fixture
def b(shared, keyring):
    with keyring.client(shared, "b") as http:
        yield http


def told(answer):
    """What an answer says, but for what differs from request to request."""
    body = answer.content
    if answer.headers.get("content-type") == "application/problem+json":
        body = json.dumps(answer.json() | {"request_id": ""}).encode()
    ignored = {"date", "request-id"}
    return answer.status_code, body, {name: value for name, value in answer.headers.items() if name not in ignored}


def body_of(call):
    return {"json": {"lease": 9}} if call.endswith("extend") else {}


def test_a_name_means_one_s_own_queue(a, b, queue):
    """Two tenants use one name for two queues; each takes only its own jobs."""
    a.post(f"/queues/{queue}/jobs", json="of a")
    b.post(f"/queues/{queue}/jobs", json="of b")
    assert (a.get(f"/queues/{queue}").json()["items"], b.get(f"/queues/{queue}").json()["items"]) == (1, 1)
    assert a.get(f"/queues/{queue}/peek").json()["data"] == "of a"
    assert a.get(f"/queues/{queue}/next").json()["data"] == "of a"
    assert a.get(f"/queues/{queue}/next?timeout=0").status_code == 204
    assert b.get(f"/queues/{queue}/next").json()["data"] == "of b"


@pytest.mark.parametrize(("method", "path"), [each for each in QUEUE_CALLS if "jobs" not in each[1]])
def test_another_s_queue_is_no_queue(a, b, new_queue, method, path):
    """Every call on a name that only B has is answered like one on an unused name, and leaves B's job where it is."""
    theirs, nobodys = new_queue(), new_queue()
    nobodys = nobodys.ljust(len(theirs), "x")
    b.post(f"/queues/{theirs}/jobs", json=1)
    first, second = (told(a.request(method, path.format(name))) for name in (theirs, nobodys))
    assert first[0] in {204, 404}
    assert (first[0], first[1].replace(theirs.encode(), nobodys.encode())) == second[:2]
    assert first[2].keys() == second[2].keys()
    assert b.get(f"/queues/{theirs}").json()["items"] == 1


@pytest.mark.parametrize("form", FORMS)
def test_no_other_form_names_another_s_queue(shared, keyring, b, form):
    """Prefixed, encoded, as a subscription, as dead letters: never a 2xx, whether B has the queue or not."""
    refused = {(400, "invalid-name"), (404, "not-found")} | ({(404, "queue-not-found")} if "child" in form else set())
    b.post("/queues/orders/jobs", json=1)
    with contextlib.closing(HttpClient(shared.port, timeout_s=30)) as a:
        for (method, path), name in itertools.product(QUEUE_CALLS, ("orders", "ordres")):
            answer = a.ask(method, path.format(form.format(name)), **keyring.bearer("a"))
            assert (answer.status, answer.code) in refused
    assert b.get("/queues/orders").json()["items"] >= 1


@pytest.mark.parametrize("call", LEASE_CALLS)
def test_another_s_lease_is_unknown(shared, keyring, b, queue, call):
    """In either worker, held or acked, B's lease is to A what no lease at all is; and it goes on being B's."""
    method, verb = call
    b.post(f"/queues/{queue}/jobs", json=1)
    lease = b.get(f"/queues/{queue}/next").json()["lease"]["id"]
    guesses = [lease, lease[:-1] + ("A" if lease[-1] != "A" else "B"), "A" * 56, lease[:10], lease + "A"]

    with client_of_each(shared, 2, headers=keyring.bearer("a")) as both:

        def answers():
            for http, guess in itertools.product(both, guesses):
                yield told(http.request(method, f"/leases/{guess}{verb}", **body_of(verb)))

        found = list(answers())
        assert found[0][0] == 404
        assert all(each[:2] == found[0][:2] for each in found)
        assert b.get(f"/leases/{lease}").json()["state"] == "held"
        assert b.post(f"/leases/{lease}/ack").status_code == 204
        assert all(each[:2] == found[0][:2] for each in answers())


def test_a_list_shows_one_s_own(shared, a, b, keyring, new_queue):
    """The list has a tenant's own queues by their names; no filter, order or cursor brings another's to light."""
    own, theirs = new_queue(), new_queue()
    a.post(f"/queues/{own}/jobs", json=1)
    b.post(f"/queues/{theirs}/jobs", json=1)
    cursor = Cursor("name", left=9, at_s=0.0, value=0.0, name="b__", ahead=(mark(theirs),), more=True).text
    ahead = Cursor("items", left=9, at_s=0.0, value=0.0, name="", ahead=(mark(theirs), mark(own)), more=False).text
    for query, shown in (
        ("", True),
        ("?filter=name~*", True),
        (f"?filter=name={theirs}", False),
        ("?filter=name~b__*", False),
        ("?sort=-items", True),
        (f"?cursor={cursor}", True),
        (f"?sort=items&cursor={ahead}", True),
    ):
        answer = a.get(f"/queues{query}")
        assert answer.status_code == 200
        names = {each["queue"] for each in answer.json()["queues"]}
        assert theirs not in names
        assert not [name for name in names if "__" in name]
        assert (own in names) == shown
    with keyring.client(shared, "ab") as other:
        assert other.get("/queues").json() == {"queues": [], "next": None}


def test_keys_of_kestrel_say_whose_they_are(shared, a, b, queue):
    """On Kestrel a queue's key begins with its tenant; subscriptions made there are shown to it only, dead letters
    to nobody."""
    a.post(f"/queues/{queue}/jobs", json=1)
    b.post(f"/queues/{queue}/jobs", json=2)
    with socket.create_connection(shared.memcache_address) as memcache, memcache.makefile("rwb") as wire:
        for key in (f"a__{queue}__dead", f"a__{queue}+kid", f"a__{queue}__kid__subdead", queue, f"x__{queue}"):
            wire.write(b"set %b 0 0 1\r\n1\r\n" % key.encode())
            wire.flush()
            assert wire.readline() == b"STORED\r\n"
        for tenant in ("a", "b"):
            wire.write(b"get %b__%b\r\n" % (tenant.encode(), queue.encode()))
            wire.flush()
            assert wire.readline().startswith(b"VALUE ")
            while wire.readline() != b"END\r\n":
                pass
    for http, queues in ((a, [queue, f"{queue}+kid"]), (b, [queue])):
        assert [each["queue"] for each in http.get(f"/queues?filter=name~{queue}*").json()["queues"]] == queues


def test_a_policy_is_that_of_one_tenant_s_queue(shared, a, b):
    """Its key on Kestrel belongs to that queue; the other tenant's queue of the same name has its own, and its own
    limit."""
    assert a.post("/queues/mail/jobs", content=b"123").status_code == 201
    assert b.post("/queues/mail/jobs", content=b"123").status_code == 413
    assert b.post("/queues/mail/jobs", content=b"1").status_code == 201
    with contextlib.closing(MemcacheClient("{}:{}".format(*shared.memcache_address))) as memcache:
        assert b'"a"' in (memcache.get("ns:mail/peek") or b"")
        assert b'"b"' in (memcache.get("b__mail/peek") or b"")
    assert [each["items"] for each in a.get("/queues?filter=name=mail").json()["queues"]] == [1]


def test_deleting_one_s_queue_leaves_the_other_s(a, b, queue):
    """Delete and flush reach the tenant's own queue and its leases only."""
    for http in (a, b):
        http.post(f"/queues/{queue}/jobs", json=1)
        http.post(f"/queues/{queue}/jobs", json=2)
    lease = b.get(f"/queues/{queue}/next").json()["lease"]["url"]
    assert a.post(f"/queues/{queue}/flush").status_code == 204
    assert a.delete(f"/queues/{queue}").json() == {"queue": queue, "leases_ended": 0}
    assert b.get(f"/queues/{queue}").json()["items"] == 1
    assert b.get(lease).json()["state"] == "held"


@pytest.fixture(scope="module")
def capped(tmp_path_factory):
    """A gateway whose tenants may have three queues each, and its keys."""
    folder = tmp_path_factory.mktemp("capped")
    ring = Keyring(folder / "keys.toml")
    for tenant in ("a", "b", "many"):
        ring.add(tenant, tenant)
    with running(folder / "data", "--keys", str(ring.path), "--max-queues", "3") as gateway:
        yield gateway, ring


def test_a_tenant_has_only_so_many_queues(capped):
    """At the cap, what would make one more is a 403; the queues that are there work, and a deleted one makes room."""
    gateway, ring = capped
    with ring.client(gateway, "a") as a, ring.client(gateway, "b") as b:
        for name in ("q1", "q2"):
            assert a.post(f"/queues/{name}/jobs", json=1).status_code == 201
        assert a.get("/queues/q3/next?timeout=0").status_code == 204
        for answer in (a.post("/queues/q4/jobs", json=1), a.get("/queues/q4/next?timeout=0")):
            assert (answer.status_code, answer.json()["code"]) == (403, "too-many-queues")
            assert "retry-after" not in answer.headers
        assert a.post("/queues/q1/jobs", json=1).status_code == 201
        assert a.get("/queues/q4").status_code == 404
        assert b.post("/queues/q4/jobs", json=1).status_code == 201
        assert a.delete("/queues/q2").status_code == 200
        assert a.post("/queues/q4/jobs", json=1).status_code == 201
        assert a.post("/queues/q5/jobs", json=1).status_code == 403


def test_one_worker_keeps_the_cap_exactly(capped):
    """Of many new queues at once just those get in for which there is room, by enqueue and by poll."""
    gateway, ring = capped
    with ring.client(gateway, "many") as many, ThreadPoolExecutor(20) as threads:

        def use(number):
            if number % 2:
                return many.get(f"/queues/q{number}/next?timeout=0.2").status_code == 204
            return many.post(f"/queues/q{number}/jobs", json=1).status_code == 201

        for _ in range(examples(5, fewest=2)):
            assert sum(threads.map(use, range(40))) == 3
            names = [each["queue"] for each in many.get("/queues").json()["queues"]]
            assert len(names) == 3
            for name in names:
                assert many.delete(f"/queues/{name}").status_code == 200


def test_a_deleted_queue_makes_room_at_once_in_every_worker(tmp_path):
    """Refused, delete, try again: the second try is a 201, whichever workers are asked and however soon."""
    ring = Keyring(tmp_path / "keys.toml")
    ring.add("a", "a")
    flags = ("--keys", str(ring.path), "--max-queues", "2", "--workers", "2")
    with (
        running(tmp_path / "data", *flags) as gateway,
        client_of_each(gateway, 2, headers=ring.bearer("a")) as both,
    ):
        there, names = [], (f"q{number}" for number in itertools.count())
        for refusing, deleting, storing in itertools.product(both, repeat=3):
            name = next(names)
            while (answer := refusing.post(f"/queues/{name}/jobs", json=1)).status_code == 201:
                there.append(name)
                name = next(names)
            assert answer.status_code == 403
            while len(there) > 1:
                assert deleting.delete(f"/queues/{there.pop(0)}").status_code == 200
            assert storing.post(f"/queues/{name}/jobs", json=1).status_code == 201, name
            there.append(name)
