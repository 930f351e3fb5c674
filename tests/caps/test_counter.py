"""The counter of places: never more than the limits allow, in order, whatever workers do and however they end."""

from __future__ import annotations

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.delivery.caps.counter import CapCounter, CapLimits, CapReason, CapReply, PlaceId
from tests.lab.examples import examples

KEY = "q"


class Places(RuleBasedStateMachine):
    """A plain model of one queue's places, beside the counter."""

    def __init__(self) -> None:
        super().__init__()
        self.counter = CapCounter()
        self.now = 0.0
        self.number = 0
        self.limits = CapLimits(2, 5.0)
        self.asked: list[PlaceId] = []
        self.polling: set[PlaceId] = set()
        self.leases: set[PlaceId] = set()
        self.leased_at: list[float] = []
        self.before = 0  # places that were given under other limits

    def took(self, replies: list[CapReply], stopped: PlaceId | None = None) -> None:
        for place, reason in replies:
            if place == stopped:
                assert reason is not None
                assert (reason is CapReason.MAX_IN_FLIGHT) == (len(self.leases) >= (self.limits.max_in_flight or 99))
                self.asked.remove(place)
                continue
            assert reason is None
            assert place == self.asked.pop(0), "places are given in order"
            self.polling.add(place)
            assert len(self.polling) + len(self.leases) <= (self.limits.max_in_flight or 99)

    @rule(worker=st.sampled_from("ab"))
    def ask(self, worker: str) -> None:
        self.number += 1
        place = PlaceId(worker, self.number)
        self.asked.append(place)
        self.took(self.counter.ask(place, KEY, self.limits, self.now))

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(self.asked))
        self.took(self.counter.stop(place, self.now), place)
        assert place not in self.asked

    @precondition(lambda self: self.polling)
    @rule(data=st.data())
    def leased(self, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(sorted(self.polling)))
        self.polling.remove(place)
        self.leases.add(place)
        self.leased_at.append(self.now)
        self.took(self.counter.leased(place, self.now))

    @precondition(lambda self: self.polling or self.leases)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(sorted(self.polling | self.leases)))
        self.polling.discard(place)
        self.leases.discard(place)
        self.took(self.counter.done(place, self.now))

    @rule(worker=st.sampled_from("ab"))
    def killed(self, worker: str) -> None:
        self.asked = [each for each in self.asked if each.holder != worker]
        self.polling = {each for each in self.polling if each.holder != worker}
        self.leases = {each for each in self.leases if each.holder != worker}
        self.took(self.counter.gone(worker, self.now))

    @rule(seconds=st.floats(0.01, 1.0))
    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while self.counter.next_at <= until:
            self.now = max(self.now, self.counter.next_at)
            self.took(self.counter.due(self.now))
        self.now = until

    @rule(most=st.sampled_from([None, 1, 3]), rate=st.sampled_from([None, 5.0]))
    def reload(self, most: int | None, rate: float | None) -> None:
        self.limits = CapLimits(most, rate)
        self.leased_at.clear()
        self.before = len(self.polling)
        self.took(self.counter.limit(KEY, self.limits, self.now))

    @invariant()
    def within_limits(self) -> None:
        if self.limits.rate is not None:
            for first, at in enumerate(self.leased_at):
                for count, later in enumerate(self.leased_at[first:], 1):
                    assert count <= (later - at) * self.limits.rate + self.limits.burst + self.before + 0.01
        assert len(self.counter) == len(self.asked) + len(self.polling) + len(self.leases)

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        if not self.asked:
            return
        most, rate = self.limits.max_in_flight, self.limits.rate
        held = len(self.polling) + len(self.leases)
        assert (
            (most is not None and held >= most)
            or (rate is not None and self.counter.next_at < math.inf)
            or (rate is not None and self.polling)
        )


TestPlaces = Places.TestCase
TestPlaces.settings = settings(stateful_step_count=examples(50, fewest=35))


def test_no_more_than_the_limit_are_given() -> None:
    """With three places and two workers, the fourth waits until one is free or its worker is gone."""
    counter = CapCounter()
    limits = CapLimits(3)
    asked = [PlaceId("ab"[number % 2], number) for number in range(5)]
    given = [reply.place for each in asked for reply in counter.ask(each, KEY, limits, 0)]
    assert given == asked[:3]
    assert counter.leased(asked[0], 0) == []
    assert counter.done(asked[1], 0) == [CapReply(asked[3], None)]
    assert counter.gone("a", 0) == []  # the fifth place was asked for by the same worker
    assert len(counter) == 1


def test_a_reload_that_lowers_the_limit_takes_no_place_away() -> None:
    """Places above a lower limit end in their own time; none is given until there are fewer."""
    counter = CapCounter()
    first, second, third = (PlaceId("a", number) for number in range(3))
    for each in (first, second):
        assert counter.ask(each, KEY, CapLimits(2), 0)
    assert counter.ask(third, KEY, CapLimits(1), 0) == []
    assert counter.done(first, 0) == []
    assert counter.done(second, 0) == [CapReply(third, None)]
