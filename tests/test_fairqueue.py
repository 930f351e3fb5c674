"""Tenants take turns, whatever each of them has put in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fairness.fair_queue import FairQueue


def test_a_thousand_of_one_tenant_delay_another_by_one():
    """The second tenant's first is the second to come."""
    queue: FairQueue[int] = FairQueue()
    for number in range(1000):
        queue.put("many", number)
    queue.put("few", 1000)
    queue.put("few", 1001)
    assert [queue.get() for _ in range(5)] == [0, 1000, 1, 1001, 2]
    assert len(queue) == 997


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.sampled_from(["put", "remove", "get"]))))
def test_it_is_first_in_first_out_for_each_tenant(steps):
    """Against lists; an item is in it once, and none is lost or given twice."""
    queue: FairQueue[tuple[str, int]] = FairQueue()
    model: dict[str, list[tuple[str, int]]] = {"a": [], "b": [], "c": []}
    for tenant, number, step in steps:
        item = (tenant, number)
        if step == "put":
            queue.put(tenant, item)
            model[tenant] += [item] if item not in model[tenant] else []
        elif step == "remove":
            queue.remove(tenant, item)
            model[tenant] = [each for each in model[tenant] if each != item]
        elif any(model.values()):
            got = queue.get()
            assert model[got[0]].pop(0) == got
        else:
            with pytest.raises(IndexError):
                queue.get()
        assert len(queue) == sum(map(len, model.values()))
