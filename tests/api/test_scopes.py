"""What a key may do with the calls that have tests of their own: its tenant, its scopes and its queues.

One gateway for all of them: `a` and `b` are tenants, and each test uses a queue of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.api.keyring import Keyring
from tests.api.test_dead_letters import rejected
from tests.api.test_leases import take
from tests.lab import ledger
from tests.lab.gateway import Running, running


@pytest.fixture(scope="module")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    ring = Keyring(tmp_path_factory.mktemp("scopes") / "keys.toml")
    ring.add("a", "a")
    ring.add("b", "b")
    ring.add("worker", "a", "produce consume")
    ring.add("producer", "a", "produce")
    ring.add("narrow", "a", queues=["mine-*"])
    ring.add("operator", scopes="operator")
    return ring


@pytest.fixture(scope="module")
def gateway(keyring: Keyring) -> Iterator[Running]:
    """Two workers. The ledger balances in the end."""
    with running(keyring.path.with_name("data"), "--keys", str(keyring.path), "--workers", "2") as gateway:
        yield gateway
        ledger.check(gateway, keyring.bearer("operator"))


@pytest.fixture(scope="module")
def client(gateway: Running, keyring: Keyring) -> Iterator[Callable[[str], httpx.Client]]:
    """The client that bears the key of that name."""
    clients = {name: keyring.client(gateway, name) for name in keyring.secrets}
    yield clients.__getitem__
    for each in clients.values():
        each.close()


def put(http: httpx.Client, queue: str, job: object = 1, **headers: str) -> httpx.Response:
    answer = http.post(f"/queues/{queue}/jobs", json=job, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer


def code(answer: httpx.Response) -> str:
    return str(answer.json()["code"])


def test_idempotency_keys_are_kept_a_tenant(client, queue):
    """The same key of another tenant is another key, and reveals nothing of the first."""
    for name, job in (("a", 1), ("b", 2)):
        stored = put(client(name), queue, job, **{"idempotency-key": "k"})
        assert "idempotency-replayed" not in stored.headers
    for name, job in (("a", 1), ("b", 2)):
        assert take(client(name), queue, ack="auto")["data"] == job
        assert client(name).get(f"/queues/{queue}/next?timeout=0").status_code == 204


def test_metrics_are_for_operators(gateway, client):
    """401 without a key, 403 with any other scope; an operator needs no tenant."""
    with gateway.client() as nobody:
        assert nobody.get("/metrics").status_code == 401
    refused = client("a").get("/metrics")
    assert (refused.status_code, code(refused)) == (403, "forbidden-scope")
    assert client("operator").get("/metrics").status_code == 200


def test_a_tenant_pauses_its_own_queue_only(client, queue):
    """Another tenant's queue with the same name goes on, and a key without the scope `admin` pauses nothing."""
    path = f"/queues/{queue}/pause"
    for name in ("a", "b"):
        put(client(name), queue)
    assert client("worker").put(path).status_code == 403
    assert client("a").put(path).status_code == 200
    assert client("a").get(f"/queues/{queue}/next?timeout=0").headers["queue-paused"] == "true"
    assert client("b").get(f"/queues/{queue}/next?timeout=0").status_code == 200
    assert client("worker").delete(path).status_code == 403


def test_dead_letters_are_for_admins_of_their_queue(client, queue):
    """Only `admin`; one tenant's dead letters are another's 404; `to` must be a queue that the key may use."""
    queue = f"mine-{queue}"
    (made,) = rejected(client("a"), queue, "x")
    path = f"/queues/{queue}/dead-letters/jobs"
    assert [each["id"] for each in client("a").get(path).json()["letters"]] == [made]
    for name, refused in (("worker", "forbidden-scope"), ("b", "queue-not-found")):
        http = client(name)
        answers = [http.get(path), http.delete(f"{path}/{made}"), http.post(f"{path}/{made}/redrive")]
        assert {code(each) for each in answers} == {refused}
    narrow = client("narrow")
    for call in (f"{path}/{made}/redrive", f"/queues/{queue}/redrive"):
        assert code(narrow.post(call, json={"to": "other"})) == "forbidden-queue"
    assert code(narrow.get("/queues/other/dead-letters/jobs")) == "forbidden-queue"
    assert narrow.post(f"{path}/{made}/redrive", json={"to": queue}).status_code == 200


def test_a_key_for_some_queues_settles_on_those_only(client, queue):
    """Every way of settling asks on whose queue the lease is."""
    a, narrow = client("a"), client("narrow")
    for name in (f"theirs-{queue}", f"mine-{queue}"):
        put(a, name)
    foreign, own = take(a, f"theirs-{queue}")["lease"], take(a, f"mine-{queue}")["lease"]
    body = {"acks": [foreign["id"], own["id"]], "nacks": [{"lease": foreign["id"]}]}
    answer = narrow.post("/leases/settle", json=body)
    assert [each["status"] for each in answer.json()["results"]] == [404, 204, 404]
    assert narrow.post(foreign["url"] + "/reject").status_code == 404
    assert narrow.get(f"/queues/mine-{queue}/next", params={"ack": foreign["id"]}).status_code == 404
    assert narrow.post(f"/queues/theirs-{queue}/redrive").status_code == 403
    assert a.get(foreign["url"]).json()["state"] == "held"


def test_next_from_several_queues_needs_a_key_for_each(client, queue):
    """One that it does not allow refuses the request; tenants have queues of their own; only `consume` may take."""
    high, low = queues = [f"mine-{queue}-high", f"mine-{queue}-low"]

    def next_(name: str, *queues: str) -> httpx.Response:
        return client(name).get("/next", params={"queue": queues, "timeout": 0})

    put(client("a"), low)
    assert code(next_("narrow", high, "other", low)) == "forbidden-queue"
    assert code(next_("producer", high)) == "forbidden-scope"
    assert next_("b", *queues).status_code == 204
    answer = next_("narrow", *queues)
    assert answer.json()["data"] == 1
    for name in ("narrow", "worker", "a"):
        assert client(name).post(answer.json()["lease"]["url"] + "/ack").status_code == 204
