"""Shares of a limit: no tenant takes everything, the limit holds, and what is given back is free for all."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.common.shares import Shares


def greedy(shares: Shares, tenant: str) -> int:
    """How much the tenant gets that takes whatever it may."""
    while shares.admits(tenant):
        shares.take(tenant)
    return shares.of(tenant)


def test_each_greedy_tenant_leaves_room_for_the_next():
    """Half of the limit, half of the rest, and so on: the seventh still finds some."""
    shares = Shares(10_000, 0.5)
    assert [greedy(shares, f"t{i}") for i in range(7)] == [5000, 2500, 1250, 625, 313, 156, 78]
    assert shares.refused == 7
    assert shares.largest == 5000


@pytest.mark.parametrize(("limit", "tenants"), [(10, 4), (10_000, 14)])
def test_many_greedy_tenants_use_up_a_limit(limit: int, tenants: int, root: Path):
    """The next one finds nothing. docs/limits.md gives the number for 10,000."""
    shares = Shares(limit, 0.5)
    taken = [greedy(shares, f"t{i}") for i in range(tenants + 1)]
    assert (min(taken[:-1]), taken[-1], sum(taken)) == (1, 0, limit)
    if limit == 10_000:
        assert f"{tenants} tenants can use up a limit of {limit:,}" in (root / "docs/limits.md").read_text()


def test_without_tenants_the_limit_is_the_share():
    """One caller takes all of it."""
    shares = Shares(7)
    assert greedy(shares, "") == 7
    assert shares.room("") == 0


def test_a_limit_of_one_is_of_use():
    """The first one who asks has it."""
    shares = Shares(1, 0.5)
    assert (greedy(shares, "a"), greedy(shares, "b")) == (1, 0)
    shares.give_back("a")
    assert greedy(shares, "b") == 1


@given(
    limit=st.integers(1, 1000),
    share=st.sampled_from([0.01, 0.3, 0.5, 0.9, 1.0]),
    steps=st.lists(st.tuples(st.sampled_from("abc"), st.integers(-9, 60)), max_size=60),
)
def test_the_limit_and_the_shares_hold(limit, share, steps):
    """Compared with a plain model, for any order: a tenant that is admitted holds at most its share of the rest."""
    shares, model = Shares(limit, share), dict.fromkeys("abc", 0)
    for tenant, step in steps:
        amount = max(step, -model[tenant])
        if amount < 0:
            shares.give_back(tenant, -amount)
        elif shares.admits(tenant, amount):
            shares.take(tenant, amount)
            others = sum(model.values()) - model[tenant]
            assert model[tenant] + amount < share * (limit - others) + 1
        else:
            continue
        model[tenant] += amount
        assert shares.held == sum(model.values()) <= limit
        assert [shares.of(each) for each in "abc"] == list(model.values())
