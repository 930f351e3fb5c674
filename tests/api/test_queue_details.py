"""The open leases and the policy of a queue over HTTP, and what an observer without a tenant sees."""

import itertools
import re

import pytest

from tests.api.keyring import Keyring
from tests.lab.gateway import running
from tests.lab.workers import client_of_each
from tests.lab.yaml_text import parse_yaml

POLICIES = """
[queues."mail-*"]
max_attempts = 5
retry_delay = { min = 1, max = 60 }
lease = 600

[queues.raw]
format = "raw"
"""


@pytest.fixture(scope="module")
def keyring(tmp_path_factory):
    ring = Keyring(tmp_path_factory.mktemp("details") / "keys.toml")
    for name in ("mailer", "other"):
        ring.add(name)
    ring.add("watcher", "", "observe")
    return ring


@pytest.fixture(scope="module")
def gateway(keyring):
    """Two workers, keys and policies."""
    policies = keyring.path.parent / "queues.toml"
    policies.write_text(POLICIES)
    flags = ("--keys", str(keyring.path), "--workers", "2", "--queues", str(policies))
    with running(keyring.path.parent / "data", *flags, "--max-attempts", "7", "--max-lease", "300") as gateway:
        yield gateway


def test_every_worker_tells_its_leases_and_who_holds_them(gateway, keyring):
    """With two workers; the list has no id that could settle a lease, and an ended lease is gone from it."""
    taken = {}
    with client_of_each(gateway, 2) as workers, keyring.client(gateway, "watcher") as http:
        for worker, name in itertools.product(workers, ("mailer", "other")):
            bearer = keyring.bearer(name)
            worker.post("/queues/emails/jobs", json=name, headers=bearer).raise_for_status()
            answer = worker.post("/queues/emails/leases", json={"timeout": 5}, headers=bearer).json()
            taken[answer["lease"]["id"]] = (name, answer["jobs"][0]["id"])
        found = http.get("/queues/emails/leases").json()
        assert (found["queue"], found["left"], found["complete"]) == ("emails", 0, True)
        expected = sorted((lease[16:24], *who) for lease, who in taken.items())
        assert sorted((each["lease"], each["holder"], each["job_id"]) for each in found["leases"]) == expected
        assert [each["taken_at"] for each in found["leases"]] == sorted(each["taken_at"] for each in found["leases"])
        assert {(each["state"], each["attempt"]) for each in found["leases"]} == {("held", 1)}
        assert all(each["expires_at"] > each["taken_at"] for each in found["leases"])
        lease, (name, _) = taken.popitem()
        assert http.get("/queues/nosuch/leases").json()["leases"] == []
        workers[0].post(f"/leases/{lease}/ack", headers=keyring.bearer(name)).raise_for_status()
        assert len(http.get("/queues/emails/leases").json()["leases"]) == len(taken)


def test_the_policy_is_what_applies(gateway, keyring, root):
    """The table's values, otherwise the settings; the members are the keys of the file of policies."""
    with keyring.client(gateway, "watcher") as http:
        mail, raw, other = (http.get(f"/queues/{name}/policy").json() for name in ("mail-a", "raw", "other"))
    assert (mail["table"], mail["max_attempts"], mail["lease"]) == ("mail-*", 5, 300)
    assert mail["retry_delay"] == {"min": 1, "max": 60, "factor": 2, "jitter": 0}
    assert (raw["table"], raw["format"], raw["max_attempts"]) == ("raw", "raw", 7)
    assert (other["table"], other["lease"], other["max_bytes"], other["ttl"]) == (None, 60, 1 << 20, None)
    documented = set(re.findall(r"^\| `([a-z_]+)` \|", (root / "docs/policies.md").read_text(), re.MULTILINE))
    assert other.keys() - {"queue", "table"} == documented
    contract = parse_yaml((root / "openapi.yaml").read_text())
    assert other.keys() == contract["components"]["schemas"]["QueuePolicy"]["properties"].keys()


def test_without_tenants_an_observer_sees_the_deployment(gateway, keyring):
    """The metrics, the queues and the servers; it names no tenant."""
    with keyring.client(gateway, "watcher") as http:
        assert http.get("/metrics").status_code == 200
        assert http.get("/queues").status_code == 200
        assert http.get("/queues?tenant=acme").status_code == 400
        assert http.get("/backends").json()["backends"][0]["connections"]
        assert http.post("/queues/q/jobs", json=1).status_code == 403
