"""The ages of heads: what is peeked, how often, and what a request sees of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from gateway.coverage import Coverage
from gateway.delivery.figures.head_ages import RECHECK_S, RECHECKED, ROUND_BYTES, HeadAges
from gateway.errors import BackendUnavailable
from gateway.fairness.turns import Turns
from gateway.queue_stats import MergedStats, QueueStats


@dataclass
class Server:
    """A server whose heads a test sets."""

    name: str
    heads: dict[str, bytes]
    peeked: list[str]

    async def peek(self, key: str) -> bytes | None:
        self.peeked.append(key)
        return self.heads.get(key)


def event(at_s: float) -> bytes:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(at_s)).encode()
    return b'{"specversion":"1.0","id":"a","source":"s","type":"t","time":"%b","enqueued":"%b","data":1}' % (
        stamp,
        stamp,
    )


@pytest.fixture
def ages() -> Callable[..., tuple[HeadAges, Server]]:
    def made(**heads: bytes) -> tuple[HeadAges, Server]:
        server = Server("s", heads, [])
        return HeadAges(lambda: [server], lambda _: True, Turns()), server

    return made


def test_ages_at_one_time_have_the_order_of_those_at_another(ages: Callable[..., tuple[HeadAges, Server]]) -> None:
    """To the millisecond, wherever between two of them the lists are made: one list continues the other."""
    now_s = float(int(time.time()))
    known, _ = ages(a=event(now_s - 100), b=event(now_s - 101))
    stats = dict.fromkeys("ab", QueueStats(items=1, bytes=100, total_items=1))
    figures = MergedStats(stats, {"s": stats}, Coverage(1, 1))

    async def main() -> None:
        await known.update(stats, figures.servers)
        for at_s in (now_s, now_s + 0.0004, now_s + 0.0006, now_s + 17.77777):
            found = (await known.known(figures, "", at_s)).queues
            since_ms = {key: round(at_s * 1000) - each.age_ms for key, each in found.items()}
            assert since_ms == {"a": (now_s - 100) * 1000, "b": (now_s - 101) * 1000}, at_s

    asyncio.run(main())


def test_a_head_is_peeked_again_only_if_it_may_be_another_one(ages: Callable[..., tuple[HeadAges, Server]]) -> None:
    """Puts behind it change nothing; a read, an expiry or a return does."""
    now_s = float(int(time.time()))
    known, server = ages(q=event(now_s - 100))
    old = QueueStats(items=2, bytes=200, total_items=2, age_ms=1)
    for stats, peeks in (
        (old, 1),
        (old, 1),
        (QueueStats(items=9, bytes=900, total_items=9), 1),
        (QueueStats(items=8, bytes=800, total_items=9, open_reads=1), 2),
        (QueueStats(items=8, bytes=800, total_items=9), 3),
        (QueueStats(items=7, bytes=700, total_items=9, expired_items=1), 4),
        (QueueStats(total_items=9), 4),
    ):
        queues, servers = asyncio.run(known.update({"q": stats}, {"s": {"q": stats}}))
        assert len(server.peeked) == peeks, stats
        if stats.items:
            assert 100_000 <= queues["q"].age_ms < 160_000
            assert servers["s"]["q"].age_ms == queues["q"].age_ms


def test_a_raw_item_counts_from_when_it_was_seen(ages: Callable[..., tuple[HeadAges, Server]]) -> None:
    """Or by Kestrel's age if that is more."""
    known, _ = ages(young=b"raw", old=b"raw")
    stats = {"young": QueueStats(items=1, bytes=3, total_items=1), "old": QueueStats(items=1, bytes=3, age_ms=90_000)}
    asyncio.run(known.update(stats, {"s": stats}))
    aged, _ = asyncio.run(known.update(stats, {"s": stats}))
    assert 0 <= aged["young"].age_ms < 60_000
    assert 90_000 <= aged["old"].age_ms < 150_000


def test_a_queue_that_was_created_again_with_the_same_figures_is_noticed(
    ages: Callable[..., tuple[HeadAges, Server]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After RECHECK_S, the RECHECKED heads that were peeked longest ago; a raw item by its bytes. Others are kept."""
    names = [f"q{number:03}" for number in range(RECHECKED)]
    known, server = ages(**dict.fromkeys(names, event(0)), raw=b"one", same=b"raw")
    stats = {key: QueueStats(items=1, bytes=3, total_items=1, age_ms=90_000) for key in server.heads}
    asyncio.run(known.update(stats, {"s": stats}))
    stats = {key: QueueStats(items=1, bytes=3, total_items=1) for key in server.heads}
    server.heads |= {"q000": event(time.time()), "raw": b"two"}
    server.peeked.clear()
    asyncio.run(known.update(stats, {"s": stats}))
    assert not server.peeked
    passed_s = time.monotonic() + RECHECK_S
    monkeypatch.setattr("gateway.delivery.figures.head_ages.time.monotonic", lambda: passed_s)
    asyncio.run(known.update(stats, {"s": stats}))
    assert server.peeked == names
    aged, _ = asyncio.run(known.update(stats, {"s": stats}))
    assert server.peeked == [*names, "raw", "same"]
    assert aged["q000"].age_ms < 60_000 > aged["raw"].age_ms
    assert aged["q001"].age_ms > 1e9
    assert 90_000 <= aged["same"].age_ms < 150_000


def test_a_round_peeks_a_limited_number_of_bytes(ages: Callable[..., tuple[HeadAges, Server]]) -> None:
    """The rest comes first in the next round."""
    keys = [f"q{number}" for number in range(6)]
    known, server = ages(**dict.fromkeys(keys, event(0)))
    stats = {key: QueueStats(items=1, bytes=ROUND_BYTES // 4, total_items=1) for key in keys}
    asyncio.run(known.update(stats, {"s": stats}))
    assert len(server.peeked) == 4
    asyncio.run(known.update(stats, {"s": stats}))
    assert sorted(server.peeked) == keys


def test_a_server_that_does_not_answer_costs_one_question_a_round() -> None:
    """Its queues keep the ages that are known; those of another server are looked at."""

    class Silent(Server):
        async def peek(self, key: str) -> bytes | None:
            await super().peek(key)
            raise BackendUnavailable("no answer")

    silent, other = Silent("a", {}, []), Server("b", {"q0": event(0), "q1": event(0)}, [])
    known = HeadAges(lambda: [silent, other], lambda _: True, Turns())
    stats = {f"q{number}": QueueStats(items=1, bytes=9, total_items=1, age_ms=7) for number in range(2)}
    _, servers = asyncio.run(known.update(stats, {"a": stats, "b": stats}))
    assert (len(silent.peeked), len(other.peeked)) == (1, 2)
    assert [each.age_ms for each in servers["a"].values()] == [7, 7]
    assert all(each.age_ms > 1e9 for each in servers["b"].values())


def test_a_request_looks_at_the_head_of_its_queue_only(ages: Callable[..., tuple[HeadAges, Server]]) -> None:
    """Also if the figures say that the head is known. A raw item that a round has seen counts from then."""
    known, server = ages(q=event(0), raw=b"raw")
    stats = {key: QueueStats(items=1, bytes=3, total_items=1, age_ms=90_000) for key in ("q", "raw")}
    asyncio.run(known.update(stats, {"s": stats}))
    server.heads["q"] = event(float(int(time.time())) - 100)
    server.peeked.clear()
    stats = {key: replace(each, age_ms=7) for key, each in stats.items()}
    for key, age_s in (("q", 100), ("raw", 90)):
        aged = asyncio.run(known.peeked(key, MergedStats(stats, {"s": stats}, Coverage(1, 1)), ""))
        assert age_s <= aged.queues[key].age_ms / 1000 < age_s + 60
    assert server.peeked == ["q", "raw"]


def test_a_request_does_not_wait_for_a_silent_server(ages: Callable[..., tuple[HeadAges, Server]]) -> None:
    """Then the head of the last round counts, or Kestrel's age; of a queue without waiting jobs the age is 0."""
    known, server = ages(q=event(0))

    async def silence(key: str) -> bytes | None:
        return await asyncio.get_running_loop().create_future()

    async def asked() -> None:
        stats = {
            "q": QueueStats(items=1, bytes=3, total_items=1, age_ms=7),
            "empty": QueueStats(total_items=1, age_ms=7),
        }
        figures = MergedStats(stats, {"s": stats}, Coverage(1, 1))
        await known.update(stats, {"s": stats})
        server.peek = silence  # type: ignore[method-assign]
        async with asyncio.timeout(10):
            for each in (await known.peeked("q", figures, ""), await known.known(figures)):
                assert each.queues["q"].age_ms == each.servers["s"]["q"].age_ms > 1e9
                assert each.queues["empty"].age_ms == each.servers["s"]["empty"].age_ms == 0

    asyncio.run(asked())


def test_a_reader_sees_the_finished_round(ages: Callable[..., tuple[HeadAges, Server]]) -> None:
    """Not the heads that the round in progress has found so far."""
    known, server = ages(**dict.fromkeys(("a", "b"), event(0)))

    async def read() -> None:
        stats = {key: QueueStats(items=1, bytes=3, total_items=1) for key in ("a", "b")}
        figures = MergedStats(stats, {"s": stats}, Coverage(1, 1))
        await known.update(stats, {"s": stats})
        found: list[MergedStats] = []

        async def peek(key: str) -> bytes | None:
            found.append(await known.known(figures))
            return event(0)

        server.peek = peek  # type: ignore[method-assign]
        changed = {key: QueueStats(items=1, bytes=3, total_items=2) for key in ("a", "b", "c")}
        await known.update(changed, {"s": {"a": changed["a"], "c": changed["c"]}})
        assert len(found) == 2
        assert all(stats.age_ms > 1e9 for each in found for stats in each.queues.values())

    asyncio.run(read())
