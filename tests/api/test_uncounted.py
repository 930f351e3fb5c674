"""A nack with `count: false`: the job is at the head again as if it had not been taken, on every kind of server."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.cluster.rig import before, brokers
from tests.lab.gateway import Running, running
from tests.lab.workers import client_of_each

POLICY = '[queues.tail]\nretry = "tail"\nretry_delay = [60]\n'


@pytest.fixture(scope="module", params=["embedded", "memcache"])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two workers, so that some nacks reach the one that does not hold the lease."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    (folder / "queues.toml").write_text(POLICY)
    flags = ("--workers", "2", "--max-attempts", "2", "--queues", str(folder / "queues.toml"))
    if request.param == "embedded":
        with running(folder / "data", *flags) as it:
            yield it
    else:
        with brokers(folder, 1) as many, before(folder, many, *flags) as it:
            yield it


@pytest.fixture(scope="module")
def workers(gateway: Running) -> Iterator[list[httpx.Client]]:
    with client_of_each(gateway, 2) as clients:
        yield clients


@pytest.fixture
def call(workers: list[httpx.Client]) -> Callable[..., httpx.Response]:
    """One request, to the workers in turn: of four deliveries and their nacks, each worker gets both of one, and one of
    two."""
    one, other = workers
    turns = itertools.cycle([one, one, other, other, one])

    def request(method: str, path: str, **options: object) -> httpx.Response:
        return next(turns).request(method, path, **options)  # type: ignore[arg-type]

    return request


def taken(call: Callable[..., httpx.Response], queue: str) -> tuple[str, int, object]:
    """The lease, the attempt and the content of the next job."""
    answer = call("GET", f"/queues/{queue}/next?timeout=5")
    assert answer.status_code == 200, answer.text
    job = answer.json()
    return job["lease"]["id"], job["attempt"], job["data"]


@pytest.mark.parametrize("queue", ["plain", "tail"])
def test_it_uses_up_no_attempt(call: Callable[..., httpx.Response], queue: str) -> None:
    """Neither the first attempt nor the last one, however often; a counted nack counts as ever."""
    call("POST", f"/queues/{queue}/jobs", json=1)
    for _ in range(4):
        lease, attempt, data = taken(call, queue)
        assert (attempt, data) == (1, 1)
        assert call("POST", f"/leases/{lease}/nack", json={"count": False, "reason": "stopped"}).status_code == 204
    lease, _, _ = taken(call, queue)
    assert call("POST", f"/leases/{lease}/nack", json={"position": "tail", "delay": 0}).status_code == 204
    for _ in range(4):
        lease, attempt, data = taken(call, queue)
        assert (attempt, data) == (2, 1)
        assert call("POST", f"/leases/{lease}/nack", json={"count": False, "position": "head"}).status_code == 204
    lease, _, _ = taken(call, queue)
    settled = call("POST", "/leases/settle", json={"nacks": [{"lease": lease, "count": False}]})
    assert settled.json()["results"] == [{"lease": lease, "status": 204}]
    lease, attempt, _ = taken(call, queue)
    assert attempt == 2
    assert call("POST", f"/leases/{lease}/nack", json={"count": True}).json() == {"position": "dead"}
    assert call("GET", f"/queues/{queue}/dead-letters").json()["items"] == 1


@pytest.mark.parametrize("wrong", [{"position": "tail"}, {"delay": 5}])
def test_what_it_excludes(call: Callable[..., httpx.Response], wrong: dict[str, object]) -> None:
    """A delay and the tail need a copy, which is an attempt; the lease stays as it was."""
    call("POST", "/queues/wrong/jobs", json=1)
    lease, _, _ = taken(call, "wrong")
    answer = call("POST", f"/leases/{lease}/nack", json={"count": False, **wrong})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-body")
    assert call("POST", f"/leases/{lease}/ack").status_code == 204
