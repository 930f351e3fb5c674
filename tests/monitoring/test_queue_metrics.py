"""The metrics of queues: equal to what a test did, the same from every gateway, limited in number."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import orjson
import pytest

from gateway.api.metrics.queue_text import queue_text
from gateway.delivery.figures.gatherer import Round
from gateway.delivery.figures.largest import AGE, FIGURES, LargestQueues, QueueTable
from gateway.delivery.queues.catalog import Catalog
from gateway.fairness.turns import Turns
from gateway.names.namespace import Namespace
from gateway.queue_stats import QueueStats
from tests.api.keyring import Keyring
from tests.api.test_leases import take
from tests.lab.gateway import running
from tests.lab.ledger import figures, total
from tests.leases.cluster import Replica, clustered

OFTEN = ("--queue-figures-interval", "0.2")
NDJSON = {"content-type": "application/x-ndjson"}
READ_AT = re.compile(r"^kestrel_gateway_queue_figures_timestamp_seconds.* (\S+)$", re.MULTILINE)


def scrape(http: httpx.Client, **headers: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    answer = http.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    return figures(answer.text)


def read_again(http: httpx.Client, **headers: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """A scrape whose figures of queues were read after this call: of the second round that ends after it."""
    deadline_s = time.monotonic() + 60
    ended: set[str] = set()
    while len(ended) < 3:  # the one of before, and two
        assert time.monotonic() < deadline_s, "the figures of queues are not read again"
        time.sleep(0.2 if ended else 0)  # as OFTEN: a scrape takes each worker several milliseconds
        text = http.get("/metrics", headers=headers).text
        ended.update(READ_AT.findall(text))
    return figures(text)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Replica]]:
    with clustered(tmp_path_factory.mktemp("pair")) as cluster:
        yield [cluster.start("--workers", "2", *OFTEN) for _ in range(2)]


def test_sums_equal_what_was_done(pair: list[Replica]) -> None:
    """With two replicas of two workers: every figure of each queue, from both, and the counters of all workers."""
    clients = [replica.client(headers={"connection": "close"}) for replica in pair]
    before = [scrape(http) for http in clients]
    began_s = time.time()
    for http in clients:
        assert http.put("/queues/orders/subscriptions/audit").status_code in {200, 201}
    lines = b'"%b"\n' % (b"x" * 100) * 5
    for number in range(8):
        answer = clients[number % 2].post("/queues/orders/jobs", content=lines, headers=NDJSON)
        assert answer.status_code == 201
    assert clients[0].post("/queues/later/jobs?delay=3600", json=1).status_code == 201
    leases = [take(clients[number % 2], "orders")["lease"]["url"] for number in range(20)]
    for number, url in enumerate(leases[:15]):
        how = "/ack" if number < 9 else "/reject" if number < 13 else "/nack"
        assert clients[number // 2 % 2].post(url + how).status_code in {200, 204}
    expected = {"items": 22, "open_reads": 5, "dead_letters": 4, "backlog": 27}
    found = [read_again(http) for http in clients]
    for now in found:
        for name, value in expected.items():
            assert total(now, f"queue_{name}", queue="orders", tenant="") == value, name
        assert (
            total(now, "queue_items", queue="orders+audit") == total(now, "queue_backlog", queue="orders+audit") == 40
        )
        assert total(now, "queue_bytes", queue="orders") > 22 * 100
        age_s = total(now, "queue_age_seconds", queue="orders")
        assert 0 < age_s <= time.time() - began_s + 1
        assert total(now, "queue_delayed", queue="_others") == 1
        assert total(now, "queues", series="own") == 2
        assert total(now, "queue_figures_servers", state="missing") == 0

    def grown(name: str, **labels: str) -> float:
        return sum(
            total(now, name, **labels) - total(was, name, **labels) for was, now in zip(before, found, strict=True)
        )

    assert grown("jobs_enqueued_total") == 41  # the delayed one, too
    assert grown("leases_delivered_total") == 20
    assert [grown("leases_settled_total", outcome=way) for way in ("acked", "rejected", "nacked")] == [9, 4, 2]
    assert grown("lease_hold_seconds_count") == 15
    assert grown("job_wait_seconds_count") == 20
    for url in leases[15:]:
        assert clients[0].post(url + "/ack").status_code == 204


def test_a_queue_that_nobody_reads_grows_old(pair: list[Replica]) -> None:
    """Its age is that of its oldest job; when younger jobs are at the head, it is young again."""
    http = pair[0].client(headers={"connection": "close"})
    stored_s = time.time()
    assert http.post("/queues/slow/jobs", content=b"0\n1\n2\n", headers=NDJSON).status_code == 201
    found = read_again(http)
    first = total(found, "queue_age_seconds", queue="slow")
    later = read_again(http)
    assert total(later, "queue_age_seconds", queue="slow") > first
    assert total(later, "queue_age_seconds", queue="slow") <= time.time() - stored_s
    for _ in range(3):
        assert http.post(take(http, "slow")["lease"]["url"] + "/ack").status_code == 204
    young_s = time.time()
    assert http.post("/queues/slow/jobs", json=3).status_code == 201
    now = read_again(http)
    assert total(now, "queue_age_seconds", queue="slow") <= time.time() - young_s


def test_each_key_sees_its_own_queues(tmp_path: Path) -> None:
    """A key with a tenant scrapes that tenant's queues, and nothing of the gateway; one with `*` everything."""
    ring = Keyring(tmp_path / "keys.toml")
    for tenant in ("acme", "globex"):
        ring.add(tenant, tenant)
        ring.add(tenant + "-observer", tenant, "observe")
    ring.add("some", "acme", "observe", queues=("b*",))
    ring.add("monitor", "*", "observe")
    with running(tmp_path / "data", "--keys", str(ring.path), *OFTEN) as gateway, gateway.client() as http:
        for tenant, queues in (("acme", ("alpha", "beta")), ("globex", ("gamma",))):
            for queue in queues:
                answer = http.post(f"/queues/{queue}/jobs", headers=ring.bearer(tenant), json=1)
                assert answer.status_code == 201
        everything = read_again(http, **ring.bearer("monitor"))
        assert total(everything, "queue_items") == 3
        assert total(everything, "queue_items", tenant="globex", queue="gamma") == 1
        assert total(everything, "jobs_enqueued_total") == 3
        for key, names in (("acme-observer", {"alpha", "beta"}), ("globex-observer", {"gamma"}), ("some", {"beta"})):
            found = scrape(http, **ring.bearer(key))
            assert {dict(labels)["queue"] for _, labels in found} == names
            assert {name for name, _ in found} == {f"kestrel_gateway_queue_{each}" for each in FIGURES}


def test_the_number_of_series_is_limited(tmp_path: Path) -> None:
    """The largest queues have series of their own; the others are summed and counted."""
    with running(tmp_path / "data", "--max-queue-metrics", "2", *OFTEN) as gateway, gateway.client() as http:
        for number, queue in enumerate(("tiny", "small", "large", "huge"), 1):
            assert http.post(f"/queues/{queue}/jobs", content=b"1\n" * number, headers=NDJSON).status_code == 201
        now = read_again(http)
        assert {dict(labels)["queue"] for name, labels in now if name == "kestrel_gateway_queue_items"} == {
            "huge",
            "large",
            "_others",
        }
        assert total(now, "queue_items", queue="_others", tenant="_others") == 3
        assert (total(now, "queues", series="own"), total(now, "queues", series="none")) == (2, 2)
        assert total(now, "broker_commit_duration_seconds_count") >= 4  # requests above
        assert total(now, "broker_file_bytes") > 0
        assert 0 < total(now, "broker_disk_free_bytes") < total(now, "broker_disk_size_bytes")


# Work on the loop


class CountedTurns(Turns):
    """Turns that note how many steps of work run between two chances for other work."""

    def __init__(self, steps_a_slice: int) -> None:
        super().__init__()
        self.steps = 0

    async def slices(self, steps, tenant=""):  # type: ignore[no-untyped-def]
        for value in steps:
            self.steps += 1
            yield value


def table_of(queues: int, *, limit: int, turns: Turns) -> QueueTable:
    """The table of a deployment with so many queues."""
    stats = {f"queue-{number:05}": QueueStats(items=number, bytes=number * 100) for number in range(queues)}
    catalog = Catalog(Namespace())

    largest = LargestQueues(catalog, turns, holding_keys=(), servers=lambda: 1, limit=limit)
    asyncio.run(largest.add(Round(1, time.time(), stats, {"s": stats})))
    assert largest.table is not None
    return largest.table


def test_ten_thousand_queues_are_handled_in_slices() -> None:
    """Each step handles one queue, and other work may run between two steps; the answer has a limit."""
    turns = CountedTurns(1)
    table = table_of(10_000, limit=1000, turns=turns)
    assert turns.steps >= 10_000
    assert (len(table.rows), table.others) == (1000, 9000)
    assert sum(row[2][0] for row in table.rows) + table.sums[0] == sum(range(10_000))
    assert [row[1] for row in table.rows[:2]] == ["queue-09999", "queue-09998"]
    turns.steps = 0
    text = asyncio.run(queue_text(table, turns))
    assert turns.steps == 1000
    assert len(text) < 1_000_000
    assert text.count(b"\n") < len(FIGURES) * 1002 + 40


def test_the_loop_stays_free_while_a_large_table_is_made() -> None:
    """With the real slices: other work runs again and again, at least once for a thousand queues."""

    async def watched() -> int:
        turns, ran = Turns(), 0

        async def other() -> None:
            nonlocal ran
            while True:
                ran += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        stats = {f"queue-{number:05}": QueueStats(items=number) for number in range(10_000)}
        largest = LargestQueues(Catalog(Namespace()), turns, holding_keys=(), servers=lambda: 1, limit=1000)
        await largest.add(Round(1, time.time(), stats, {"s": stats}))
        assert largest.table is not None
        await queue_text(largest.table, turns)
        task.cancel()
        return ran

    assert asyncio.run(watched()) >= 10


def test_a_table_travels_between_workers() -> None:
    """As JSON, and back."""
    row = ("acme", "emails", (1.0, 2.0, 3.5, 4.0, 5.0, 6.0, 7.0))
    table = QueueTable(1.5, (row,), 2, tuple(float(each) for each in range(len(FIGURES))), 3, 1, 2)
    assert QueueTable.of(orjson.loads(orjson.dumps(table))) == table
    assert AGE == 2
