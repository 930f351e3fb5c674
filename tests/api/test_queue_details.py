"""The open leases and the policy of a queue over HTTP."""

import re

from tests.api.keyring import Keyring
from tests.lab.gateway import running


def test_every_worker_tells_its_leases_and_who_holds_them(tmp_path):
    """With two workers; the list has no id that could settle a lease, and an ended lease is gone from it."""
    keyring = Keyring(tmp_path / "keys.toml")
    for name in ("mailer", "other"):
        keyring.add(name)
    keyring.add("watcher", "", "observe")
    flags = ("--keys", str(keyring.path), "--workers", "2")
    with running(tmp_path / "data", *flags) as gateway:
        taken = {}
        for name in ("mailer", "other") * 4:  # new connections, which both workers accept
            with keyring.client(gateway, name) as http:
                http.post("/queues/emails/jobs", json=name).raise_for_status()
                answer = http.post("/queues/emails/leases", json={"timeout": 5}).json()
                taken[answer["lease"]["id"]] = (name, answer["jobs"][0]["id"])
        with keyring.client(gateway, "watcher") as http:
            found = http.get("/queues/emails/leases").json()
            assert (found["queue"], found["left"], found["complete"]) == ("emails", 0, True)
            expected = sorted((lease[16:24], *who) for lease, who in taken.items())
            assert sorted((each["lease"], each["holder"], each["job_id"]) for each in found["leases"]) == expected
            assert [each["taken_at"] for each in found["leases"]] == sorted(
                each["taken_at"] for each in found["leases"]
            )
            assert {(each["state"], each["attempt"]) for each in found["leases"]} == {("held", 1)}
            assert all(each["expires_at"] > each["taken_at"] for each in found["leases"])
            lease, (name, _) = taken.popitem()
            assert http.get("/queues/nosuch/leases").json()["leases"] == []
            with keyring.client(gateway, name) as owner:
                owner.post(f"/leases/{lease}/ack").raise_for_status()
            assert len(http.get("/queues/emails/leases").json()["leases"]) == len(taken)


def test_the_policy_is_what_applies(tmp_path, root):
    """The table's values, otherwise the settings; the members are the keys of the file of policies."""
    (tmp_path / "queues.toml").write_text(
        '[queues."mail-*"]\nmax_attempts = 5\nretry_delay = { min = 1, max = 60 }\nlease = 600\n'
        '[queues.raw]\nformat = "raw"\n'
    )
    flags = ("--queues", str(tmp_path / "queues.toml"), "--max-attempts", "7", "--max-lease", "300")
    with running(tmp_path / "data", *flags) as gateway, gateway.client() as http:
        mail, raw, other = (http.get(f"/queues/{name}/policy").json() for name in ("mail-a", "raw", "other"))
    assert (mail["table"], mail["max_attempts"], mail["lease"]) == ("mail-*", 5, 300)
    assert mail["retry_delay"] == {"min": 1, "max": 60, "factor": 2, "jitter": 0}
    assert (raw["table"], raw["format"], raw["max_attempts"]) == ("raw", "raw", 7)
    assert (other["table"], other["lease"], other["max_bytes"], other["ttl"]) == (None, 60, 1 << 20, None)
    documented = set(re.findall(r"^\| `([a-z_]+)` \|", (root / "docs/policies.md").read_text(), re.MULTILINE))
    assert other.keys() - {"queue", "table"} == documented
