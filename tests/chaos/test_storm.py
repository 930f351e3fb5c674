"""A short storm over the real thing, and over gateways with a planted fault: kept promises pass, broken ones do not."""

import os

import pytest

from chaos.__main__ import EXPECTED, find
from chaos.schedule import EMBEDDED
from chaos.storm import StormPlan, run

SECONDS = float(os.environ.get("KESTREL_GATEWAY_TEST_CHAOS_SECONDS", "5"))


@pytest.mark.parametrize(
    ("seed", "seconds", "acks"), [(172, 1.5, 10), pytest.param(7, SECONDS, 100, marks=pytest.mark.slow)]
)
def test_a_short_storm_breaks_no_promise(tmp_path, seed, seconds, acks):
    """Everything is killed and frozen for a few seconds; the checker finds nothing, and there was something to find."""
    for longer in (1, 4, 16):  # a machine may be too busy for so many acks
        verdict = run(StormPlan(tmp_path / str(longer), seed, seconds * longer), print)
        assert verdict.violations == []
        if verdict.figures["acks answered 204"] > acks:
            break
    assert verdict.figures["acks answered 204"] > acks
    assert any(what.startswith(("kill", "freeze")) for what in verdict.figures)


@pytest.mark.slow
def test_a_short_storm_over_an_embedded_broker_breaks_no_promise(tmp_path):
    """Its workers and its broker are killed and frozen, and its disk is full."""
    verdict = run(StormPlan(tmp_path, 3, max(SECONDS, 8.0), layout=EMBEDDED), print)
    assert verdict.violations == []
    assert verdict.figures["acks answered 204"] > 10
    assert any(what.endswith("broker") for what in verdict.figures)


@pytest.mark.slow
@pytest.mark.parametrize("fault", EXPECTED)
def test_a_planted_fault_is_found(tmp_path, fault):
    """A gateway that breaks its promise is reported as what it is."""
    assert find(fault, tmp_path, 1)[EXPECTED[fault]]
