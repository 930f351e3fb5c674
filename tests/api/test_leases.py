"""Leases over HTTP: every way one can end, and what each end answers."""

import itertools
import os
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.lab.gateway import running
from tests.lab.waiting import until
from tests.lab.workers import client_of_each

pytestmark = pytest.mark.usefixtures("ledger_balances")


def take(http, queue, **params):
    answer = http.get(f"/queues/{queue}/next", params={"timeout": 5, **params})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture
def leased(http, queue):
    """A job under a lease."""
    http.post(f"/queues/{queue}/jobs", json="work")
    return take(http, queue)


def test_an_ack_may_be_repeated(http, queue, leased):
    """204, and 204 again; the job is gone."""
    for _ in range(3):
        assert http.post(leased["lease"]["url"] + "/ack").status_code == 204
    assert http.get(f"/queues/{queue}/next?timeout=0").status_code == 204
    assert http.get(leased["lease"]["url"]).json()["state"] == "acked"


def test_a_nack_gives_the_job_back_at_once(http, queue, leased):
    """The next consumer gets the same job with a higher attempt; the nack may be repeated."""
    for _ in range(2):
        assert http.post(leased["lease"]["url"] + "/nack").status_code == 204
    again = take(http, queue)
    assert (again["id"], again["attempt"]) == (leased["id"], 2)


def test_a_nack_puts_the_job_at_the_head(http, queue):
    """Given back, the first job is before the second again."""
    for number in (1, 2):
        http.post(f"/queues/{queue}/jobs", json=number)
    first = take(http, queue)
    http.post(first["lease"]["url"] + "/nack", json={"position": "head"})
    assert [take(http, queue)["data"] for _ in range(2)] == [1, 2]


@pytest.mark.parametrize(("first", "second"), [("ack", "nack"), ("nack", "ack")])
def test_another_settlement_conflicts(http, leased, first, second):
    """Settled in one way, the other answers 409, and extending too."""
    url = leased["lease"]["url"]
    assert http.post(f"{url}/{first}").status_code == 204
    answer = http.post(f"{url}/{second}")
    assert (answer.status_code, answer.json()["code"]) == (409, "lease-settled")
    assert http.post(f"{url}/extend", json={"lease": 5}).status_code == 409


def test_an_expired_lease_gives_its_job_to_the_next(http, queue):
    """After `lease` seconds the waiting consumer has the job, and the old lease answers 410."""
    http.post(f"/queues/{queue}/jobs", json="late")
    slow = take(http, queue, lease=1)
    began = time.monotonic()
    again = take(http, queue, timeout=5)
    assert time.monotonic() - began > 0.5
    assert (again["id"], again["attempt"]) == (slow["id"], 2)
    answer = http.post(slow["lease"]["url"] + "/ack")
    assert (answer.status_code, answer.json()["code"]) == (410, "lease-expired")
    assert http.get(slow["lease"]["url"]).json()["state"] == "expired"
    assert http.post(again["lease"]["url"] + "/ack").status_code == 204


def test_an_extended_lease_lasts(http, queue):
    """Extended in time, a lease outlives its first deadline."""
    http.post(f"/queues/{queue}/jobs", json="long")
    job = take(http, queue, lease=1)
    extended = http.post(job["lease"]["url"] + "/extend", json={"lease": 30})
    assert extended.status_code == 200
    assert extended.json()["expires_at"] > job["lease"]["expires_at"]
    assert http.get(f"/queues/{queue}/next?timeout=1.5").status_code == 204
    assert http.post(job["lease"]["url"] + "/ack").status_code == 204


def test_a_lease_can_be_shortened(http, queue):
    """Extending to less than what is left ends the lease earlier."""
    http.post(f"/queues/{queue}/jobs", json="short")
    job = take(http, queue, lease=600)
    http.post(job["lease"]["url"] + "/extend", json={"lease": 1})
    assert take(http, queue, timeout=5)["id"] == job["id"]


def remaining_s(lease):
    return (datetime.fromisoformat(lease["expires_at"]) - datetime.now(UTC)).total_seconds()


@pytest.mark.parametrize("query", ["lease=500", "lease_seconds=500", "lease=500&lease_seconds=500.0"])
def test_the_length_of_a_lease_has_a_former_name(http, queue, query):
    """`lease` is what `lease_seconds` was called; both may be there if they agree."""
    http.post(f"/queues/{queue}/jobs", json=1)
    lease = http.get(f"/queues/{queue}/next?{query}").json()["lease"]
    assert 490 < remaining_s(lease) <= 500
    for body in ({"lease": 900}, {"lease_seconds": 900}, {"lease": 900, "lease_seconds": 900}):
        assert 890 < remaining_s(http.post(lease["url"] + "/extend", json=body).json()) <= 900
        http.post(lease["url"] + "/extend", json={"lease_seconds": 500})
    http.post(lease["url"] + "/ack")


def test_two_lengths_of_one_lease_are_told(http, leased, queue):
    """The names contradict each other: nothing is taken, and the lease stays as it was."""
    for query in ("lease=5&lease_seconds=6", "lease_seconds=6&lease=5", "lease=5&lease=5"):
        answer = http.get(f"/queues/{queue}/next?timeout=0&{query}")
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-parameter")
    assert (
        "differ; send only lease_seconds" in http.get(f"/queues/{queue}/next?lease=5&lease_seconds=6").json()["detail"]
    )
    answer = http.post(leased["lease"]["url"] + "/extend", json={"lease": 5, "lease_seconds": 6})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-body")
    assert http.get(leased["lease"]["url"]).json()["expires_at"] == leased["lease"]["expires_at"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b'{"lease":0}', b'{"lease_seconds":0}', b'{"lease":true}', b'{"lease":"5"}', b"{", b"null"],
)
def test_a_bad_extension_is_told(http, leased, body):
    """What the contract does not describe is a 400, and the lease stays as it was."""
    answer = http.post(leased["lease"]["url"] + "/extend", content=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-body")
    assert http.get(leased["lease"]["url"]).json()["expires_at"] == leased["lease"]["expires_at"]


@pytest.mark.parametrize("body", [b'{"position":"middle"}', b'{"x":1}', b"[]", b"{"])
def test_a_bad_nack_is_told(http, leased, body):
    """A nack that cannot be understood settles nothing."""
    answer = http.post(leased["lease"]["url"] + "/nack", content=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-body")
    assert http.get(leased["lease"]["url"]).json()["state"] == "held"


def test_no_id_can_be_made_up(http, leased):
    """Changed in any one place, or of the wrong shape, an id is a 404 that reveals nothing."""
    good = leased["lease"]["id"]
    for at in range(0, len(good), 5):
        changed = good[:at] + ("A" if good[at] != "A" else "B") + good[at + 1 :]
        answer = http.post(f"/leases/{changed}/ack")
        assert (answer.status_code, answer.json()["code"]) == (404, "lease-not-found")
    for odd in ("x", "é", good + "A", good[:-1], "%00", "..", "a" * 3000):
        assert http.post(f"/leases/{odd}/ack").status_code in (400, 404)
    assert http.get(leased["lease"]["url"]).json()["state"] == "held"


def test_deleting_a_queue_ends_its_leases(http, queue, leased):
    """The answer counts them, settling one is a 410, and the job does not come back."""
    assert http.delete(f"/queues/{queue}").json()["leases_ended"] == 1
    answer = http.post(leased["lease"]["url"] + "/ack")
    assert (answer.status_code, answer.json()["code"]) == (410, "queue-deleted")
    assert http.get(f"/queues/{queue}/next?timeout=0.2").status_code == 204


def test_flushing_a_queue_leaves_leases_alone(http, queue, leased):
    """A leased job is not flushed: given back, it is there."""
    assert http.post(f"/queues/{queue}/flush").status_code == 204
    assert http.post(leased["lease"]["url"] + "/nack").status_code == 204
    assert take(http, queue)["id"] == leased["id"]


@pytest.fixture(scope="module")
def mortal(tmp_path_factory):
    """A gateway that tests kill, in part or whole, and leave ready again."""
    with running(tmp_path_factory.mktemp("mortal") / "data") as gateway:
        yield gateway


def test_a_lease_of_an_earlier_life_is_gone(mortal, queue):
    """After kill -9 of everything an unacked job is back, and its old lease is a 410 whose outcome is unknown."""
    with mortal.client() as http:
        http.post(f"/queues/{queue}/jobs", json="survivor")
        old = take(http, queue)
    mortal.kill()
    mortal.start()
    with mortal.client() as http:
        assert take(http, queue)["id"] == old["id"]
        answer = http.post(old["lease"]["url"] + "/ack")
        assert (answer.status_code, answer.json()["code"]) == (410, "outcome-unknown")


def test_a_kestrel_that_dies_takes_its_leases_along(mortal, queue):
    """A lease whose Kestrel connection broke is `lease-lost` at once, and its job is delivered again."""
    with mortal.client() as http:
        http.post(f"/queues/{queue}/jobs", json="x")
        job = take(http, queue)
        kill_broker(mortal)
        until(lambda: http.get(job["lease"]["url"]).json()["state"] == "lost")
        answer = http.post(job["lease"]["url"] + "/ack")
        assert (answer.status_code, answer.json()["code"]) == (410, "lease-lost")
        until(lambda: http.get("/readyz").status_code == 200)
        assert take(http, queue, timeout=20)["id"] == job["id"]


def kill_broker(gateway) -> None:
    """kill -9 of the embedded broker alone."""
    for children in Path(f"/proc/{gateway.process.pid}/task").glob("*/children"):
        for child in children.read_text().split():
            if b"gateway.broker" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(int(child), signal.SIGKILL)
                return
    raise AssertionError("no broker found")


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """A client of each of a gateway's three workers."""
    with running(tmp_path_factory.mktemp("three") / "data", "--workers", "3") as gateway:
        with client_of_each(gateway, 3) as clients:
            yield clients


def test_any_worker_settles_any_lease(workers, queue):
    """Leases taken from each worker and settled at each: all settled, none delivered again."""
    pairs = [*itertools.product(workers, repeat=2), (workers[0], workers[1])]
    for number in range(len(pairs)):
        workers[0].post(f"/queues/{queue}/jobs", json=number)
    urls = [take(taking, queue)["lease"]["url"] for taking, _ in pairs]
    for number, (url, (_, settling)) in enumerate(zip(urls, pairs, strict=True)):
        assert settling.get(url).json()["state"] == "held"
        assert settling.post(url + "/extend", json={"lease": 100}).status_code == 200
        assert settling.post(url + ("/nack" if number == len(pairs) - 1 else "/ack")).status_code == 204
    for url, other in zip(urls[:-1], itertools.cycle([*workers[1:], workers[0]]), strict=False):
        assert other.post(url + "/ack").status_code == 204
        assert other.post(url + "/nack").status_code == 409
    assert take(workers[0], queue)["data"] == len(pairs) - 1
    assert workers[1].get(f"/queues/{queue}/next?timeout=0").status_code == 204


def test_deleting_a_queue_ends_leases_of_every_worker(workers, queue):
    """A queue deleted through one worker ends the others' leases, too."""
    urls = []
    for http in workers * 2:
        http.post(f"/queues/{queue}/jobs", json=1)
        urls.append(take(http, queue)["lease"]["url"])
    assert workers[0].delete(f"/queues/{queue}").json()["leases_ended"] == len(urls)
    assert {workers[0].post(url + "/ack").json()["code"] for url in urls} == {"queue-deleted"}
