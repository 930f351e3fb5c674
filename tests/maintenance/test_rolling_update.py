"""A replica of the first release and one of this version share Kestrel servers and the cluster's secret.

Each test runs both ways: `first` delivers, and `second` settles or reads.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.lab.broker import BrokerProcess
from tests.lab.gateway import Running
from tests.lab.ports import free_port
from tests.leases.cluster import SECRET
from tests.maintenance.release import Released

pytestmark = pytest.mark.slow  # starts a release, of which nothing is preloaded

JOBS = 60


class Deployment:
    """Two Kestrel servers, and the replicas in front of them by their version."""

    def __init__(self, sources: Path, folder: Path) -> None:
        self._sources, self._folder = sources, folder
        self.servers = [BrokerProcess(folder / f"server{number}") for number in range(2)]
        self.replicas: list[Running] = []

    def _flags(self, port: int) -> list[str]:
        servers = [part for server in self.servers for part in ("--kestrel", server.address)]
        return [*servers, "--advertise", f"http://127.0.0.1:{port}", "--cluster-secret", SECRET]

    def start_old(self) -> Running:
        port = free_port()
        self.replicas.append(Released(self._sources, self._folder / f"old{port}", *self._flags(port), port=port))
        return self.replicas[-1]

    def start_new(self) -> Running:
        port = free_port()
        self.replicas.append(Running(self._folder / f"new{port}", *self._flags(port), port=port))
        return self.replicas[-1]

    def close(self) -> None:
        for replica in self.replicas:
            replica.kill()
        for server in self.servers:
            server.close()


@pytest.fixture(scope="module")
def deployment(released: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    made = Deployment(released, tmp_path_factory.mktemp("rolling"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def pair(deployment: Deployment) -> tuple[Running, Running]:
    """The release, and this version."""
    old, new = deployment.start_old(), deployment.start_new()
    with old.client() as there, new.client() as here:
        assert "/queues/{queue}/pause" not in there.get("/openapi.json").json()["paths"], "it is the release"
        assert "/queues/{queue}/pause" in here.get("/openapi.json").json()["paths"]
    return old, new


@pytest.fixture(params=["old-delivers", "new-delivers"])
def ways(request: pytest.FixtureRequest, pair: tuple[Running, Running]) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """The one that delivers, and the other one."""
    first, second = pair if request.param == "old-delivers" else pair[::-1]
    with first.client() as delivers, second.client() as other:
        yield delivers, other


def taken(http: httpx.Client, queue: str) -> dict[str, Any]:
    """The next job."""
    answer = http.get(f"/queues/{queue}/next?timeout=10&lease_seconds=600")
    assert answer.status_code == 200, answer.text
    job: dict[str, Any] = answer.json()
    return job


def test_every_settlement_through_the_other_version(ways: tuple[httpx.Client, httpx.Client], queue: str) -> None:
    """Ack, nack, reject, extend, inspect, each again, and conflicts: as through the owner."""
    first, second = ways

    def lease() -> str:
        assert first.post(f"/queues/{queue}/jobs", json="work").status_code == 201
        return str(taken(first, queue)["lease"]["url"])

    url = lease()
    assert second.get(url).json()["state"] == "held"
    assert second.post(f"{url}/extend", json={"lease_seconds": 100}).status_code == 200
    assert [second.post(f"{url}/ack").status_code for _ in range(2)] == [204, 204]
    assert first.get(url).json()["state"] == second.get(url).json()["state"] == "acked"
    conflict = second.post(f"{url}/reject")
    assert (conflict.status_code, conflict.json()["code"]) == (409, "lease-settled")
    url = lease()
    assert second.post(f"{url}/nack", json={"position": "head", "reason": "not now"}).status_code in (200, 204)
    again = taken(second, queue)
    assert first.post(f"{again['lease']['url']}/nack", json={"position": "tail", "reason": "later"}).status_code < 300
    third = taken(first, queue)
    assert third["attempt"] == 3, "it is the third delivery, whoever counted the second one"
    assert second.post(f"{third['lease']['url']}/nack", json={"delay": 0.1}).status_code < 300
    fourth = taken(first, queue)
    assert fourth["id"] == third["id"]
    assert second.post(f"{fourth['lease']['url']}/reject", json={"reason": "bad"}).status_code < 300
    assert second.get(f"/queues/{queue}/dead-letters/peek").json()["id"] == fourth["id"]
    urls = [lease() for _ in range(3)]
    ids = [url.rpartition("/")[2] for url in urls]
    settled = second.post("/leases/settle", json={"acks": ids[:2], "nacks": [{"lease": ids[2], "position": "head"}]})
    assert settled.status_code == 200, settled.text
    left = taken(second, queue)
    assert second.post(f"{left['lease']['url']}/ack").status_code == 204
    assert second.get(f"/queues/{queue}/next?timeout=0").status_code == 204
    unknown = "A" * len(ids[0])
    assert {http.post(f"/leases/{unknown}/ack").status_code for http in ways} == {404}


PAYLOADS: list[dict[str, Any]] = [
    {"json": {"to": "ada@example.org", "n": [1, 2.5, None, "ü"]}},
    {"content": "grüße".encode(), "headers": {"Content-Type": "text/plain; charset=utf-8"}},
    {"content": bytes(range(256)), "headers": {"Content-Type": "application/octet-stream"}},
    {"content": b"", "headers": {"Content-Type": "text/plain"}},
    {
        "content": b'{"a": 1}',
        "headers": {"Content-Type": "application/json", "ce-specversion": "1.0", "ce-id": "e1", "ce-type": "t.x"}
        | {"ce-source": "/here", "ce-subject": "s", "ce-time": "2026-01-31T12:00:00Z", "ce-mine": "yes"},
    },
]


def test_each_reads_what_the_other_has_stored(ways: tuple[httpx.Client, httpx.Client], queue: str) -> None:
    """JSON, text, bytes, nothing and a CloudEvent: data, type, id and attributes are the same."""
    first, second = ways
    for payload in PAYLOADS:
        stored = second.post(f"/queues/{queue}/jobs?ttl=3600", **payload)
        assert stored.status_code == 201, stored.text
        job = taken(first, queue)
        assert job["id"] == stored.json()["id"]
        assert (
            second.post(f"{job['lease']['url']}/nack", json={"position": "tail", "reason": "again"}).status_code < 300
        )
        again = taken(second, queue)
        assert again["attempt"] == job["attempt"] + 1
        assert again["attributes"].pop("lasterror") == "again"
        for name in set(job) - {"attempt", "lease"}:
            assert again[name] == job[name], name
        body = base64.b64decode(again["data_base64"]) if "data_base64" in again else again.get("data")
        if "json" in payload:
            assert body == payload["json"]
        elif payload["headers"]["Content-Type"] == "application/octet-stream":
            assert body == payload["content"]
        assert first.post(f"{again['lease']['url']}/ack").status_code == 204


def test_dead_letters_go_back_through_the_other_version(ways: tuple[httpx.Client, httpx.Client], queue: str) -> None:
    """One rejects them, the other one shows and redrives them; they begin again with their first attempt."""
    first, second = ways
    for number in range(4):
        first.post(f"/queues/{queue}/jobs", json=number)
        job = taken(first, queue)
        assert first.post(f"{job['lease']['url']}/reject", json={"reason": "bad"}).status_code < 300
    peeked = second.get(f"/queues/{queue}/dead-letters/peek").json()
    assert peeked["data"] in range(4)
    assert second.post(f"/queues/{queue}/redrive").json()["redriven"] == 4
    numbers = set()
    for _ in range(4):
        job = taken(first, queue)
        assert job["attempt"] == 1
        numbers.add(job["data"])
        assert second.post(f"{job['lease']['url']}/ack").status_code == 204
    assert numbers == set(range(4))


def test_what_only_this_version_can_do(pair: tuple[Running, Running], queue: str) -> None:
    """A delayed job comes through the release, too. Batches are settled through it, and their states shown."""
    with pair[0].client() as old, pair[1].client() as new:
        assert new.post(f"/queues/{queue}/jobs?delay=0.2", json="later").status_code == 201
        job = taken(old, queue)
        assert job["data"] == "later"
        uncounted = new.post(f"{job['lease']['url']}/nack", json={"count": False})
        assert uncounted.status_code < 300, uncounted.text
        job = taken(old, queue)
        followed = new.get(f"/queues/{queue}/next", params={"timeout": 0, "ack": job["lease"]["id"]})
        assert followed.status_code == 204
        assert old.get(job["lease"]["url"]).json()["state"] == "acked"
        listed = {each["queue"] for each in old.get("/queues").json()["queues"]}
        assert any(name.startswith("_kestrel-gateway__delay") for name in listed), "as docs/operations.md says"
        for settle in ("ack", "nack", "reject"):
            for number in range(4):
                assert new.post(f"/queues/{queue}/jobs", json=number).status_code == 201
            lease = new.get(f"/queues/{queue}/next?max=10").json()["lease"]
            assert old.get(lease["url"]).json()["state"] == "held"
            assert old.post(f"{lease['url']}/extend", json={"lease_seconds": 100}).status_code == 200
            settled = old.post(f"{lease['url']}/{settle}")
            assert settled.status_code < 300, settled.text
            states = {new.get(lease["url"]).json()["state"], old.get(lease["url"]).json()["state"]}
            assert states == {f"{settle}ed"}
            assert new.post(f"/queues/{queue}/flush").status_code < 300


def test_an_update_loses_no_job(deployment: Deployment, queue: str) -> None:
    """Jobs go on while an old replica stops and a new one starts: each is acked, through whichever replica is there."""
    old, new = deployment.start_old(), deployment.start_new()
    acked = []
    with old.client() as there, new.client() as here:
        for number in range(JOBS):
            assert (here, there)[number % 2].post(f"/queues/{queue}/jobs", json=number).status_code == 201
        for number in range(JOBS // 3):
            first, second = (here, there)[:: 1 if number % 2 else -1]
            job = taken(first, queue)
            assert second.post(f"{job['lease']['url']}/ack").status_code == 204
            acked.append(job["data"])
        held = taken(there, queue)
    assert old.stop() == 0  # its lease goes back to the queue
    updated = deployment.start_new()
    with updated.client() as there, new.client() as here:
        gone = there.post(f"{held['lease']['url']}/ack")
        assert (gone.status_code, gone.json()["code"]) in {(410, "outcome-unknown"), (410, "lease-lost")}
        while (answer := here.get(f"/queues/{queue}/next?timeout=1")).status_code == 200:
            assert there.post(f"{answer.json()['lease']['url']}/ack").status_code == 204
            acked.append(answer.json()["data"])
    assert sorted(acked) == list(range(JOBS))
