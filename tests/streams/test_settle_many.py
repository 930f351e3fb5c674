"""Thousands of leases of several workers and replicas in one request."""

import asyncio
import contextlib
import random
from typing import cast

import pytest

from gateway.errors import LeaseLost
from gateway.fairness.turns import Turns
from gateway.forwarding.commands import NotUnderstoodError, Verb, settle_command
from gateway.forwarding.many import ManySettlements
from gateway.leases.ids import Owner
from gateway.leases.lease import LeaseRecord, State
from gateway.leases.registry import Registry
from tests.lab.gateway import running
from tests.leases.cluster import clustered
from tests.streams.reader import StreamReader


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    """A gateway of two workers; each test uses a queue of its own."""
    with running(tmp_path_factory.mktemp("two") / "data", "--workers", "2") as gateway:
        yield gateway


def enqueue(http, count, queue="q"):
    for start in range(0, count, 1000):
        jobs = [{"data": number} for number in range(start, min(count, start + 1000))]
        assert http.post(f"/queues/{queue}/jobs/batch", json={"jobs": jobs}).status_code == 201


def lease(gateway, count, queue="q"):
    """Ids of leases, over many connections, so that every worker has some. They outlive their streams."""
    ids: list[str] = []
    while len(ids) < count:
        windows = [min(20, count - start) for start in range(len(ids), count, 20)]
        paths = [f"/queues/{queue}/stream?window={each}&lease_seconds=300&lifetime=0.2" for each in windows]
        with contextlib.ExitStack() as stack:
            for stream in [stack.enter_context(StreamReader(gateway, path)) for path in paths]:
                stream.next("open")
                while (line := stream.line())["type"] == "job":
                    ids.append(line["lease"]["id"])
    return ids


def owners(ids):
    return {each[2:14] for each in ids}


def test_thousands_of_leases_of_several_workers(two_workers):
    """One result for each id, in the order of the request; what fails says why and harms no other."""
    with two_workers.client() as http:
        enqueue(http, 300)
        ids = lease(two_workers, 300)
        assert len(owners(ids)) > 1
        random.Random(7).shuffle(ids)
        taken = ids[280:]
        assert http.post("/leases/settle", json={"acks": taken[:10]}).status_code == 200
        unknown = [f"{'A' * 55}{digit}" for digit in "ABCDEFGH"]
        acks = ids[:100] + unknown + [""] + taken[:10] + ids[100:200] + ids[:3]
        nacks = [{"lease": each, "position": "head"} for each in (*ids[200:240], taken[0])]
        rejects = [{"lease": each, "reason": "no such user " * 20} for each in (*ids[240:280], "x")]
        answer = http.post("/leases/settle", json={"acks": acks, "nacks": nacks, "rejects": rejects})
        assert answer.status_code == 207
        results = answer.json()["results"]
        asked = [*acks, *(each["lease"] for each in nacks), *(each["lease"] for each in rejects)]
        assert [each["lease"] for each in results] == asked
        wrong = {*unknown, "", "x"}
        for at, each in enumerate(results):
            if each["lease"] in wrong:
                assert (each["status"], each["code"]) == (404, "lease-not-found")
            elif at >= len(acks) and each["lease"] == taken[0]:
                assert (each["status"], each["code"]) == (409, "lease-settled")
            else:
                assert each["status"] == 204, each
        figures = http.get("/queues/q").json()
        assert (figures["items"], figures["open_reads"]) == (40, 10)
        assert http.get("/queues/q/dead-letters").json()["items"] == 40


def test_the_most_ids_of_one_request(two_workers):
    """Ten thousand; one more is refused."""
    with two_workers.client() as http:
        enqueue(http, 1, "one")
        ids = lease(two_workers, 1, "one") * 10_000
        results = http.post("/leases/settle", json={"acks": ids}).json()["results"]
        assert [each["status"] for each in results] == [204] * 10_000
        answer = http.post("/leases/settle", json={"acks": ["x"] * 10_001})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-body")


def test_leases_of_another_replica_go_there_in_groups(tmp_path):
    """Also through a third worker; a long reason goes by itself."""
    with clustered(tmp_path) as cluster:
        owner, other = cluster.start("--workers", "2"), cluster.start()
        with owner.client() as here, other.client() as there:
            enqueue(here, 70)  # more than one command may have
            ids = lease(owner, 70)
            rejects = [{"lease": ids[0], "reason": "x" * 5000}, {"lease": ids[1], "reason": "y"}]
            before = sent(there)
            answer = there.post("/leases/settle", json={"acks": ids[2:], "rejects": rejects})
            assert [each["status"] for each in answer.json()["results"]] == [204] * 70
            assert [each["lease"] for each in answer.json()["results"]] == [*ids[2:], *ids[:2]]
            assert sent(there) - before <= 6
            assert here.get("/queues/q").json()["backlog"] == 0


def sent(http):
    """How many commands were sent to replicas."""
    lines = http.get("/metrics").text.splitlines()
    found = [each for each in lines if "forwards_total{" in each and '"replica"' in each and '"sent"' in each]
    return sum(float(each.split()[-1]) for each in found)


def test_a_replica_of_an_earlier_version_gets_each_settlement_by_itself():
    """It does not know the command for many, and has done nothing of it."""
    asked, settled = [], []

    async def ask(_owner, command):
        asked.append(command)
        raise NotUnderstoodError

    async def one(command):
        settled.append(command.subject)
        if command.subject == "3":
            raise LeaseLost("gone")
        return LeaseRecord(command.subject, "q", None, 1, 0.0, State.ACKED)

    async def settle():
        many = ManySettlements(
            cast("Registry", None), Turns(), owner=lambda *_: Owner("http://old", "0" * 16), one=one, ask=ask, limit_s=5
        )
        return await many.settle([settle_command(Verb.ACK, str(at), "", {}) for at in range(100)], "")

    outcomes = asyncio.run(settle())
    assert len(asked) == 2
    assert sorted(settled, key=int) == [str(at) for at in range(100)]
    assert isinstance(outcomes[3], LeaseLost)
    assert [each.id for each in outcomes if isinstance(each, LeaseRecord)] == [str(at) for at in range(100) if at != 3]
