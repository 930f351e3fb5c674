"""The files of keys and policies are read again while streams are open."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

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


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Keyring]]:
    """A gateway with keys; each test has a tenant of its own."""
    folder = tmp_path_factory.mktemp("keyed")
    ring = Keyring(folder / "keys.toml")
    ring.add("first", "first")  # without a key it would not start
    with running(folder / "data", "--keys", str(ring.path)) as gateway:
        yield gateway, ring


@pytest.fixture(scope="module")
def policed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Path]]:
    """A gateway with policies; each test has a queue of its own."""
    folder = tmp_path_factory.mktemp("policed")
    policies = folder / "queues.toml"
    policies.write_text("")
    with running(folder / "data", "--queues", str(policies)) as gateway:
        yield gateway, policies


@pytest.mark.parametrize(
    ("tenant", "path", "changed", "reason"),
    [
        ("gone", "/queues/q/stream", None, "unauthenticated"),
        ("scope", "/queues/q/stream", {"scopes": "produce"}, "forbidden-scope"),
        ("queues", "/stream?queue=other&queue=q", {"queues": ("other",)}, "forbidden-queue"),
        ("tenant", "/queues/q/stream", {"tenant": "umbrella"}, "unauthenticated"),
    ],
)
def test_a_stream_ends_when_its_key_does_not_allow_it(keyed, tenant, path, changed, reason):
    """Its leases stay, and another key of the tenant settles them; the streams of other keys go on."""
    gateway, ring = keyed
    leaver, stays = f"{tenant}-leaver", f"{tenant}-stays"
    ring.add(leaver, tenant)
    ring.add(stays, tenant)
    read_again(gateway)
    with ring.client(gateway, stays) as http:
        put(http, "q", 1)
        with (
            StreamReader(gateway, path, **ring.bearer(leaver)) as stream,
            StreamReader(gateway, "/queues/q/stream", **ring.bearer(stays)) as other,
        ):
            stream.next("open")
            lease = stream.next()["lease"]["url"]
            if changed is None:
                ring.remove(leaver)
            else:
                ring.change(leaver, **{"tenant": tenant} | changed)
            read_again(gateway)
            end = stream.next("end")
            assert (end["reason"], end["retryable"]) == (reason, False)
            assert http.post(lease + "/ack").status_code == 204
            other.next("open")
            put(http, "q", 2)
            job = other.next()
            assert job["data"] == 2
            assert http.post(job["lease"]["url"] + "/ack").status_code == 204


@pytest.mark.parametrize("path", ["/queues/one/stream?window=1", "/stream?queue=other&queue=several&window=1"])
def test_new_policies_apply_to_an_open_stream(policed, path):
    """A job that it takes after the change has their limits and their length of a lease."""
    gateway, policies = policed
    queue = "several" if "several" in path else "one"
    policies.write_text(f"[queues.{queue}]\nlease = 40\n")
    read_again(gateway)
    with gateway.client() as http:
        put(http, queue, 1, 2)
        with StreamReader(gateway, path) as stream:
            stream.next("open")
            first = stream.next()
            policies.write_text(f"[queues.{queue}]\nlease = 4000\nmax_attempts = 1\n")
            read_again(gateway)
            assert http.post(first["lease"]["url"] + "/ack").status_code == 204
            second = stream.next()
            assert second["data"] == 2
            ends, later = (datetime.fromisoformat(each["lease"]["expires_at"]) for each in (first, second))
            assert (later - ends).total_seconds() > 3000
            assert http.post(second["lease"]["url"] + "/nack").json()["position"] == "dead"
        assert http.get(f"/queues/{queue}/dead-letters").json()["items"] == 1
