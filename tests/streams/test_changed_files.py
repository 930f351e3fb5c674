"""The files of keys and policies are read again while streams are open."""

from __future__ import annotations

import signal
from datetime import datetime

import pytest

from tests.api.keyring import Keyring
from tests.lab.gateway import Running, running
from tests.lab.waiting import until
from tests.streams.reader import StreamReader
from tests.streams.test_stream import put


def read_again(gateway: Running) -> None:
    """Returns when the gateway has read its files."""
    before = gateway.log.read_text().count("reload: ended")
    gateway.process.send_signal(signal.SIGHUP)
    until(lambda: gateway.log.read_text().count("reload: ended") > before)


@pytest.mark.parametrize(
    ("path", "changed", "reason"),
    [
        ("/queues/q/stream", None, "unauthenticated"),
        ("/queues/q/stream", {"scopes": "produce"}, "forbidden-scope"),
        ("/stream?queue=other&queue=q", {"queues": ("other",)}, "forbidden-queue"),
        ("/queues/q/stream", {"tenant": "umbrella"}, "unauthenticated"),
    ],
    ids=["gone", "scope", "queues", "tenant"],
)
def test_a_stream_ends_when_its_key_does_not_allow_it(tmp_path, path, changed, reason):
    """Its leases stay, and another key of the tenant settles them; the streams of other keys go on."""
    ring = Keyring(tmp_path / "keys.toml")
    ring.add("leaver", "acme")
    ring.add("stays", "acme")
    with running(tmp_path / "data", "--keys", str(ring.path)) as gateway, ring.client(gateway, "stays") as http:
        put(http, "q", 1)
        with (
            StreamReader(gateway, path, Authorization=ring.bearer("leaver")["Authorization"]) as stream,
            StreamReader(gateway, "/queues/q/stream", Authorization=ring.bearer("stays")["Authorization"]) as other,
        ):
            stream.next("open")
            lease = stream.next()["lease"]["url"]
            if changed is None:
                ring.remove("leaver")
            else:
                ring.change("leaver", **{"tenant": "acme"} | changed)
            read_again(gateway)
            end = stream.next("end")
            assert (end["reason"], end["retryable"]) == (reason, False)
            assert http.post(lease + "/ack").status_code == 204
            other.next("open")
            put(http, "q", 2)
            job = other.next()
            assert job["data"] == 2
            assert http.post(job["lease"]["url"] + "/ack").status_code == 204


@pytest.mark.parametrize("path", ["/queues/q/stream?window=1", "/stream?queue=other&queue=q&window=1"])
def test_new_policies_apply_to_an_open_stream(tmp_path, path):
    """A job that it takes after the change has their limits and their length of a lease."""
    policies = tmp_path / "queues.toml"
    policies.write_text("[queues.q]\nlease = 40\n")
    with running(tmp_path / "data", "--queues", str(policies)) as gateway, gateway.client() as http:
        put(http, "q", 1, 2)
        with StreamReader(gateway, path) as stream:
            stream.next("open")
            first = stream.next()
            policies.write_text("[queues.q]\nlease = 4000\nmax_attempts = 1\n")
            read_again(gateway)
            assert http.post(first["lease"]["url"] + "/ack").status_code == 204
            second = stream.next()
            assert second["data"] == 2
            ends, later = (datetime.fromisoformat(each["lease"]["expires_at"]) for each in (first, second))
            assert (later - ends).total_seconds() > 3000
            assert http.post(second["lease"]["url"] + "/nack").json()["position"] == "dead"
        assert http.get("/queues/q/dead-letters").json()["items"] == 1
