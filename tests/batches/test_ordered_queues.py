"""What a worker remembers of queues whose jobs have partition keys."""

import itertools

import pytest

from gateway.delivery import ordered_queues
from gateway.delivery.ordered_queues import REMEMBERED_S, OrderedQueues


def test_a_queue_is_forgotten_after_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its last job with a key."""
    now_s = 1000.0
    monkeypatch.setattr(ordered_queues.time, "monotonic", lambda: now_s)
    ordered = OrderedQueues()
    assert "q" not in ordered
    ordered.add("q")
    now_s += REMEMBERED_S - 1
    assert "q" in ordered
    ordered.add("q")
    now_s += REMEMBERED_S - 1
    assert "q" in ordered
    now_s += 1
    assert "q" not in ordered


def test_the_number_of_queues_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were seen longest ago are forgotten first."""
    monkeypatch.setattr(ordered_queues, "MOST_QUEUES", 3)
    ordered = OrderedQueues()
    for key in itertools.chain("abc", "a", "d"):
        ordered.add(key)
    assert [key for key in "abcd" if key in ordered] == ["a", "c", "d"]
