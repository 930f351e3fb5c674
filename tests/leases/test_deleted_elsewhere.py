"""A queue that was deleted elsewhere while its job is leased here: no copy brings the job back, and none is lost."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import httpx
import pytest

from gateway.config.policies import Policy
from gateway.errors import LeaseLost, QueueDeleted
from gateway.leases.lease import Place, State
from tests.kestrel.standin import StandIn, answer
from tests.kestrel.support import until
from tests.lab import waiting
from tests.lab.broker import BrokerProcess
from tests.lab.examples import in_ci
from tests.leases.cluster import Replica, clustered
from tests.leases.rig import rig

pytestmark = pytest.mark.usefixtures("ledger_balances")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Replica]]:
    """Two replicas in front of one broker; on queues named `once` a job has one attempt."""
    directory = tmp_path_factory.mktemp("deleted")
    (directory / "queues.toml").write_text('[queues."once*"]\nmax_attempts = 1\n')
    with clustered(directory) as cluster:
        yield [cluster.start("--queues", str(directory / "queues.toml")) for _ in range(2)]


def leased(http: httpx.Client, queue: str, lease_s: float = 600) -> str:
    """The path of a lease on a new job."""
    assert http.post(f"/queues/{queue}/jobs", json="old").status_code == 201
    path: str = http.get(f"/queues/{queue}/next?timeout=5&lease={lease_s}").json()["lease"]["url"]
    return path


def ended(http: httpx.Client, path: str) -> str:
    """How the lease has ended, once it has."""
    waiting.until(lambda: http.get(path).json()["state"] not in ("held", "delayed", "settling"))
    return str(http.get(path).json()["state"])


WAYS: dict[str, tuple[str, str, dict[str, object]]] = {
    "tail": ("", "nack", {}),
    "delayed": ("", "nack", {"delay": 0.15}),
    "reject": ("", "reject", {}),
    "expiry": ("", "", {}),
    "last attempt": ("once", "nack", {}),
    "last attempt, to the head": ("once", "nack", {"position": "head"}),
}
AFTERWARDS = ("gone", "made anew")
"""What has become of the queue when the lease ends."""
CELLS = [(way, AFTERWARDS[number % 2]) for number, way in enumerate(WAYS)]
"""Each way with one of them, and both with three ways."""


@pytest.mark.parametrize(
    ("way", "afterwards"), [*CELLS, *in_ci(*sorted(set(itertools.product(WAYS, AFTERWARDS)) - {*CELLS}))]
)
def test_no_copy_is_made_of_a_job_that_went_with_its_queue(
    pair: list[Replica], queue: str, way: str, afterwards: str
) -> None:
    """Deleted through the other replica: 410 `queue-deleted`, and only what came later is on the queue."""
    prefix, verb, body = WAYS[way]
    again = afterwards == "made anew"
    name = prefix + queue
    with pair[0].client() as here, pair[1].client() as there:
        if name == queue:
            here.post(leased(here, name) + "/nack")  # the queue's figures are known from before
            here.post(here.get(f"/queues/{name}/next?timeout=5").json()["lease"]["url"] + "/ack")
        path = leased(here, name, 600 if verb else 1)
        assert there.delete(f"/queues/{name}").status_code == 200
        if again:
            assert there.post(f"/queues/{name}/jobs", json="new").status_code == 201
        if verb:
            answer = here.post(f"{path}/{verb}", json=body)
            assert (answer.status_code, answer.json()["code"]) == (410, "queue-deleted")
        assert ended(here, path) == "dropped"
        answer = here.post(f"{path}/{verb or 'ack'}", json=body)
        assert (answer.status_code, answer.json()["code"]) == (410, "queue-deleted")
        jobs = []
        while (job := there.get(f"/queues/{name}/next?timeout=0")).status_code == 200:
            jobs.append((job.json()["data"], job.json()["attempt"]))
            there.post(job.json()["lease"]["url"] + "/ack")
        assert jobs == ([("new", 1)] if again else [])
        assert there.get(f"/queues/{name}/dead-letters").json()["items"] == 0


def test_a_nack_to_the_head_brings_nothing_back(pair: list[Replica], queue: str) -> None:
    """It is not asked for: 204, though the job is gone."""
    with pair[0].client() as here, pair[1].client() as there:
        path = leased(here, queue)
        there.delete(f"/queues/{queue}")
        assert here.post(path + "/nack", json={"position": "head"}).status_code == 204
        assert there.get(f"/queues/{queue}/next?timeout=0").status_code == 204


@pytest.mark.parametrize("others", [0, 2])
def test_a_job_whose_queue_is_there_is_copied_as_ever(pair: list[Replica], queue: str, others: int) -> None:
    """The first, the only and the last open read of a queue alike, right after another queue was deleted."""
    with pair[0].client() as here, pair[1].client() as there:
        leased(here, queue + "x")
        there.delete(f"/queues/{queue}x")
        paths = [leased(here, queue) for _ in range(1 + others)]
        assert [here.post(path + "/nack").status_code for path in paths] == [204] * len(paths)
        taken = [here.get(f"/queues/{queue}/next?timeout=5").json() for _ in paths]
        assert [each["attempt"] for each in taken] == [2] * len(paths)
        assert [here.post(each["lease"]["url"] + "/reject").status_code for each in taken] == [204] * len(paths)
        assert here.get(f"/queues/{queue}/dead-letters").json()["items"] == len(paths)


def address(broker: BrokerProcess) -> str:
    return f"127.0.0.1:{broker.port}"


def test_a_deletion_is_seen_right_after_another_job_was_copied(broker: BrokerProcess) -> None:
    """What was said of the queue a moment ago decides nothing; the connection that held the job is closed."""

    async def go() -> None:
        async with rig(address(broker)) as made:
            for _ in range(2):
                await made.put("twice")
            first, second = await made.take("twice"), await made.take("twice")
            assert first is not None
            assert second is not None
            assert (await made.registry.nack(first.lease.id)).place is Place.TAIL
            broker.client().ask(b"delete twice\r\n")
            with pytest.raises(QueueDeleted):
                await made.registry.nack(second.lease.id)
            assert not (await made.kestrel.queue_stats("twice")).queues
            assert made.kestrel.statistics().pinned == 0
            assert made.registry.leases.statistics().ended["deleted"] == 1

    asyncio.run(go())


def test_many_at_once_ask_once(broker: BrokerProcess) -> None:
    """One question for all of them, and each gets its answer; there is not one copy."""

    async def go() -> None:
        async with rig(address(broker)) as made:
            for _ in range(40):
                await made.put("burst")
            leases = [taken.lease.id for _ in range(40) if (taken := await made.take("burst")) is not None]
            broker.client().ask(b"delete burst\r\n")
            asked: list[str] = []
            ask = made.kestrel.may_have_dropped

            async def counted(key: str, server: str) -> bool:
                asked.append(key)
                return await ask(key, server)

            made.kestrel.may_have_dropped = counted  # type: ignore[method-assign]
            ends = await asyncio.gather(*(made.registry.nack(each) for each in leases), return_exceptions=True)
            assert [type(each) for each in ends] == [QueueDeleted] * 40
            assert asked == ["burst"]
            assert not (await made.kestrel.queue_stats("burst")).queues

    asyncio.run(go())


def test_what_the_server_has_perhaps_put_back_goes_to_the_head(tmp_path) -> None:
    """Kestrel's own timeout put it back unnoticed: no copy, and no lease is said to be of a deleted queue."""
    with BrokerProcess(
        tmp_path / "data", "--fsync", "off", config="[default]\nopen_transaction_timeout = 0.05"
    ) as broker:

        async def go() -> None:
            async with rig(address(broker), policies={"q": Policy(max_attempts=1)}) as made:
                for name in ("p", "q"):
                    await made.put(name)
                    taken = await made.take(name)
                    assert taken is not None
                    client = broker.client()
                    while b'"job"' not in (client.get(name) or b""):
                        await made.put(name, b'"another"')  # the broker minds the time only when there is an item
                    lease = await made.registry.nack(taken.lease.id)
                    assert lease.place is Place.HEAD
                assert made.moves.statistics().kept == {"perhaps-back": 2}

        asyncio.run(go())


def test_each_server_tells_of_what_it_holds(broker: BrokerProcess, own_broker: BrokerProcess) -> None:
    """Deleted on one server only: the job that was set aside there is gone, the one on the other is copied."""

    async def go() -> None:
        async with rig(address(broker), address(own_broker)) as made:
            for each in (broker, own_broker):
                each.client().put("half", b'{"specversion":"1.0","id":"%d","source":"s","type":"t"}' % each.port)
            taken = [job for _ in range(2) if (job := await made.take("half")) is not None]
            leases = {each.job.id: each.lease.id for each in taken}
            broker.client().ask(b"delete half\r\n")
            with pytest.raises(QueueDeleted):
                await made.registry.nack(leases[str(broker.port)])
            assert (await made.registry.nack(leases[str(own_broker.port)])).state is State.NACKED
            again = await made.take("half")
            assert again is not None
            assert again.job.id == str(own_broker.port)
            await made.registry.ack(again.lease.id)
            assert await made.take("half", timeout_s=0) is None

    asyncio.run(go())


GONE = b"queue 'q' {\r\n  \r\n}\r\nEND\r\n"
DOUBTFUL = {
    "answers garbage": [answer(b"nonsense\r\nEND\r\n")],
    "does not answer": [answer(b"", close=True)],
    "answers half": [answer(b"queue 'q' {\r\n", close=True)],
    "counts no queues that it drops itself": [answer(GONE)],
}
AGED = b"STAT queue_expires %d\r\nEND\r\n"


@pytest.mark.parametrize("doubt", DOUBTFUL)
def test_in_doubt_the_job_is_copied(doubt: str) -> None:
    """No valid answer, or one from a server that is no Kestrel: the same as without the question."""

    async def go() -> None:
        async with StandIn() as server, rig(server.address) as made:
            await made.put("q")
            taken = await made.take("q")
            assert taken is not None
            for each in DOUBTFUL[doubt]:
                server.manners.once("dump_stats", each)
            assert (await made.registry.nack(taken.lease.id)).place is Place.TAIL
            assert len(server.queues["q"]) == 1

    asyncio.run(go())


def test_a_server_that_drops_old_queues_itself_is_not_believed() -> None:
    """`maxQueueAge` deletes open reads, too; a job that no client deleted must survive it."""

    async def go() -> None:
        async with StandIn() as server, rig(server.address) as made:
            await made.put("q")
            taken = await made.take("q")
            assert taken is not None
            server.manners.once("dump_stats", answer(GONE))
            server.manners.once("stats", answer(AGED % 1))
            assert (await made.registry.nack(taken.lease.id)).place is Place.TAIL
            assert len(server.queues["q"]) == 1

    asyncio.run(go())


@pytest.mark.parametrize("held", ["it holds the item", "it is lost"])
def test_only_the_connection_that_holds_the_item_tells_that_it_is_gone(held: str) -> None:
    """Another server behind the same address, or the same after a restart, says nothing of it."""

    async def go() -> None:
        async with StandIn() as server, rig(server.address) as made:
            await made.put("q")
            taken = await made.take("q")
            assert taken is not None
            server.manners.once("dump_stats", answer(GONE))
            server.manners.once("stats", answer(AGED % 0))
            if held == "it is lost":
                server.manners.once("dump_stats", lambda session: session.close())
                with pytest.raises(LeaseLost):
                    await made.registry.nack(taken.lease.id)
            else:
                told = b"queue 'q' {\r\n  open_transactions=1\r\n  canceled_transactions=0\r\n}\r\nEND\r\n"
                server.manners.once("dump_stats", answer(told))
                assert (await made.registry.nack(taken.lease.id)).place is Place.TAIL
            await until(lambda: len(server.queues["q"]) == 1)

    asyncio.run(go())
