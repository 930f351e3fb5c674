"""The scope `observe`: it can look at everything that has no payload, and do nothing else."""

import json
import re

import pytest

from tests.api.keyring import Keyring
from tests.api.test_leases import take
from tests.lab.gateway import ROOT, running
from tests.lab.yaml_text import parse_yaml

METHODS = ("get", "post", "put", "delete", "options")
PAYLOAD = "the-payload-of-a-job"


def operations():
    """Each operation of the contract: its name, method, path and the scopes of which a key needs one."""
    paths = parse_yaml((ROOT / "openapi.yaml").read_text())["paths"]
    for path, described in paths.items():
        for method in METHODS:
            if method in described:
                operation = described[method]
                scopes = [scope for each in operation["security"] for scope in each["key"]]
                yield operation["operationId"], method.upper(), path, scopes


OPERATIONS = list(operations())


@pytest.fixture(scope="module")
def keyring(tmp_path_factory):
    ring = Keyring(tmp_path_factory.mktemp("observe") / "keys.toml")
    ring.add("all", "acme")
    ring.add("other", "globex")
    ring.add("observer", "acme", "observe")
    ring.add("some", "acme", "observe", queues=("img-*",))
    ring.add("monitor", "*", "observe")
    ring.add("root", scopes="operator")
    return ring


@pytest.fixture(scope="module")
def gateway(keyring, tmp_path_factory):
    with running(tmp_path_factory.mktemp("observed") / "data", "--keys", str(keyring.path)) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def lease(gateway, keyring):
    """The URL of a lease on the queue `q`, which has a waiting job, a dead letter and a subscription, too."""
    with keyring.client(gateway, "all") as http:
        assert http.put("/queues/q/subscriptions/audit").status_code == 201
        for number in range(3):
            assert http.post("/queues/q/jobs", json=[PAYLOAD, number]).status_code == 201
        assert http.post(take(http, "q")["lease"]["url"] + "/reject").status_code == 204
        return take(http, "q", lease_seconds=3600)["lease"]["url"]


@pytest.fixture(scope="module")
def everything(gateway, keyring):
    with keyring.client(gateway, "all") as http:
        yield http


@pytest.fixture(scope="module")
def observer(gateway, keyring):
    with keyring.client(gateway, "observer") as http:
        yield http


def state(http):
    """What a caller that may do everything sees of the queue."""
    figures = [http.get(f"/queues/{name}").json() | {"age_s": 0} for name in ("q", "q+audit")]
    letters = http.get("/queues/q/dead-letters/jobs?payload=true").json()
    return figures, letters, http.get("/queues/q/peek").json()


def test_an_observer_only_looks(everything, observer, lease):
    """Every operation of the contract: it is refused, or it is a GET that shows no payload; and nothing changes."""
    before = state(everything)
    for name, method, template, scopes in OPERATIONS:
        path = template.format(
            queue="q", child="audit", lease=lease.split("/")[-1], letter="0", backend="embedded", code="not-found"
        )
        answer = observer.request(method, path, json={} if method in {"POST", "PUT"} else None)
        if scopes and "observe" not in scopes:
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden-scope"), name
        elif scopes:
            assert (method, answer.status_code) == ("GET", 200), name
        else:
            assert answer.status_code not in {401, 500}, name
        assert PAYLOAD not in answer.text, name
    assert state(everything) == before
    assert everything.get(lease).json()["state"] == "held"


def test_what_may_be_observed(gateway, keyring, lease):
    """Lists and figures, of the queues that the key allows."""
    with keyring.client(gateway, "observer") as http:
        assert [each["queue"] for each in http.get("/queues").json()["queues"]] == ["q", "q+audit"]
        queue = http.get("/queues/q", params={"detail": "servers"}).json()
        assert (queue["items"], queue["open_reads"], queue["servers"][0]["server"]) == (1, 1, "server-1")
        assert http.get("/queues/q/dead-letters").json()["items"] == 1
        assert http.get("/queues/q/subscriptions/audit").json()["items"] == 3
    with keyring.client(gateway, "some") as http:
        assert http.get("/queues").json()["queues"] == []
        assert http.get("/queues/q").json()["code"] == "forbidden-queue"


@pytest.mark.parametrize("key", ["monitor", "root"])
def test_a_key_without_a_tenant_sees_every_tenant(gateway, keyring, lease, key):
    """It names the tenant, and sees the addresses of servers and all metrics."""
    with keyring.client(gateway, "other") as http:
        assert http.post("/queues/theirs/jobs", json=1).status_code == 201
    with keyring.client(gateway, key) as http:
        for tenant, first in (("acme", "q"), ("globex", "theirs")):
            page = http.get("/queues", params={"tenant": tenant, "limit": 1}).json()
            assert page["queues"][0]["queue"] == first
            assert http.get(f"/queues/{first}", params={"tenant": tenant}).status_code == 200
            if page["next"]:
                assert http.get(page["next"]).json()["queues"][0]["queue"] == "q+audit"
        refused = http.get("/queues")
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid-parameter")
        assert "add tenant=NAME" in refused.json()["detail"]
        assert http.get("/metrics").status_code == 200
        (backend,) = http.get("/backends").json()["backends"]
        assert backend["server"] != "server-1"
        assert backend["connections"]
        put = http.put(f"/backends/{backend['server']}/status", json={"status": "up"})
        assert (put.status_code == 403) == (key == "monitor")


def test_a_key_with_a_tenant_sees_no_other_one(gateway, keyring, lease):
    """It may name its own tenant, and no other one; the servers have no addresses."""
    for key in ("all", "observer"):
        with keyring.client(gateway, key) as http:
            assert http.get("/queues", params={"tenant": "acme"}).status_code == 200
            refused = http.get("/queues", params={"tenant": "globex"})
            assert (refused.status_code, refused.json()["code"]) == (403, "forbidden-scope")
    with keyring.client(gateway, "observer") as http:
        (backend,) = http.get("/backends").json()["backends"]
        assert (backend["server"], backend["status"], backend["connections"]) == ("server-1", "up", {})
        assert not re.search(r"[/:]", json.dumps([backend["server"], backend["error"]]))
