"""The order of jobs with an Ordering-Key in batches, on two servers that speak memcache."""

from __future__ import annotations

import pytest

from tests.batches.test_batches import left, take
from tests.cluster.rig import before, brokers

POLICIES = '[queues."ordered-*"]\nretry = "head"\n'


@pytest.fixture(scope="module")
def http(tmp_path_factory):
    """A gateway before two servers."""
    directory = tmp_path_factory.mktemp("order")
    (directory / "queues.toml").write_text(POLICIES)
    flags = ("--queues", str(directory / "queues.toml"), "--kestrel-open-reads", "100")
    with brokers(directory, 2) as many, before(directory, many, *flags) as made, made.client() as client:
        yield client


def enqueue(http, queue, count):
    jobs = {"jobs": [{"data": number} for number in range(count)]}
    assert http.post(f"/queues/{queue}/jobs/batch", json=jobs, headers={"ordering-key": "k"}).status_code == 201


def test_jobs_of_a_key_come_in_order(http, queue):
    """In each batch, and from batch to batch."""
    enqueue(http, queue, 25)
    seen = []
    while len(seen) < 25:
        numbers, url = take(http, queue, 10)
        seen += numbers
        assert http.post(url + "/ack").status_code == 204
    assert seen == list(range(25))


def test_what_goes_back_to_the_head_is_in_reverse_order(http, queue):
    """Jobs that go back together from one connection; those behind them are not overtaken."""
    enqueue(http, queue, 5)
    _, url = take(http, queue, 3)
    assert http.post(url + "/nack", json={"position": "head"}).status_code == 204
    found = left(http, queue)
    assert found[:3] == [2, 1, 0]
    assert found[3:] == [3, 4]


def test_with_retry_head_the_order_is_kept(http):
    """A batch has one job, which comes again before the next one."""
    enqueue(http, "ordered-q", 4)
    seen = []
    for attempt in range(8):
        numbers, url = take(http, "ordered-q", 10)
        seen += numbers
        assert http.post(url + ("/nack" if attempt % 2 == 0 else "/ack")).status_code == 204
    assert seen == [0, 0, 1, 1, 2, 2, 3, 3]
