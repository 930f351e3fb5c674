"""Cells that need several servers. Each docstring is the cell."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.rig import before, brokers
from tests.interactions.calls import Api
from tests.lab.broker import BrokerProcess

POLICIES = """
[queues."back-off-*"]
retry_delay = [0.2]
[queues."limits-*"]
max_in_flight = 1
[queues.rate-servers]
rate = 0.001
[queues.rate-order]
rate = 50
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, list[BrokerProcess]]]:
    """A gateway before two servers."""
    directory = tmp_path_factory.mktemp("cluster")
    (directory / "queues.toml").write_text(POLICIES)
    with (
        brokers(directory, 2) as many,
        before(directory, many, "--queues", str(directory / "queues.toml")) as made,
        made.client() as http,
    ):
        yield Api(http), many


def spread(many: list[BrokerProcess], queue: str) -> list[int]:
    """How many items each server has."""
    return [each.stat(f"queue_{queue}_items") for each in many]


def test_back_off_several_servers(cluster: tuple[Api, list[BrokerProcess]]) -> None:
    """A job may come back on another server."""
    api, many = cluster
    api.put("back-off-servers", *range(16), ordering_key="one-server")
    assert sorted(spread(many, "back-off-servers")) == [0, 16]
    for job in [api.take("back-off-servers") for _ in range(16)]:
        api.nack(job)
    api.wait_for_items("back-off-servers", 16)
    assert 0 not in spread(many, "back-off-servers")
    assert sorted(api.values("back-off-servers", 16)) == list(range(16))


def test_pause_ordering_key(cluster: tuple[Api, list[BrokerProcess]]) -> None:
    """The jobs of a key wait, and come in order afterwards."""
    api, _ = cluster
    api.put("pause-order", 1, ordering_key="k")
    api.pause("pause-order")
    api.put("pause-order", 2, 3, 4, ordering_key="k")
    api.resume("pause-order")
    assert api.values("pause-order", 4) == [1, 2, 3, 4]


def test_pause_several_servers(cluster: tuple[Api, list[BrokerProcess]]) -> None:
    """No server delivers a job."""
    api, many = cluster
    api.put("pause-servers", *range(16))
    assert 0 not in spread(many, "pause-servers")
    api.pause("pause-servers")
    assert api.next("pause-servers", 0.3).headers["queue-paused"] == "true"
    api.resume("pause-servers")
    assert sorted(api.values("pause-servers", 16)) == list(range(16))


def test_limits_ordering_key(cluster: tuple[Api, list[BrokerProcess]]) -> None:
    """With `max_in_flight = 1` a job of a key is done before the next one is delivered."""
    api, _ = cluster
    api.put("limits-order", 1, 2, 3, ordering_key="k")
    for number in (1, 2, 3):
        job = api.take("limits-order")
        assert job["data"] == number
        assert api.limited("limits-order")
        api.ack(job)


def test_limits_several_servers(cluster: tuple[Api, list[BrokerProcess]]) -> None:
    """The limits hold for all servers together."""
    api, many = cluster
    api.put("limits-servers", *range(16))
    assert 0 not in spread(many, "limits-servers")
    job = api.take("limits-servers")
    assert api.limited("limits-servers")
    api.ack(job)
    assert len(api.values("limits-servers", 15)) == 15


def test_rate_ordering_key(cluster: tuple[Api, list[BrokerProcess]]) -> None:
    """The jobs of a key come in order, at the rate."""
    api, _ = cluster
    api.put("rate-order", *range(6), ordering_key="k")
    assert api.values("rate-order", 6) == list(range(6))


def test_rate_several_servers(cluster: tuple[Api, list[BrokerProcess]]) -> None:
    """The rate holds for all servers together."""
    api, many = cluster
    api.put("rate-servers", *range(16))
    assert 0 not in spread(many, "rate-servers")
    api.values("rate-servers", 1)
    assert api.limited("rate-servers", "rate")
    assert sum(spread(many, "rate-servers")) == 15


def test_fanout_ordering_key(cluster: tuple[Api, list[BrokerProcess]]) -> None:
    """Each subscription gets the jobs of a key in order."""
    api, _ = cluster
    queues = ["fanout-order", api.subscribe("fanout-order"), api.subscribe("fanout-order", "mail")]
    api.put("fanout-order", *range(8), ordering_key="k")
    assert [api.values(each, 8) for each in queues] == [list(range(8))] * 3


def test_several_ordering_key(cluster: tuple[Api, list[BrokerProcess]]) -> None:
    """The jobs of a key come in order from each queue. Between queues, the preference decides."""
    api, _ = cluster
    for number in range(4):
        api.put("several-low", number, ordering_key="k")
        api.put("several-early", number, ordering_key="k")
    found = []
    for _ in range(8):
        job = api.first_of("several-early", "several-low").json()
        found.append((job["queue"], job["data"]))
        api.ack(job)
    assert found == [(queue, number) for queue in ("several-early", "several-low") for number in range(4)]
