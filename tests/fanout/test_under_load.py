"""Short forms of the programs that load, delete and kill; see their modules for the long ones."""

import asyncio

import pytest

from tests.fanout import deletions, outages
from tests.lab.examples import examples


@pytest.mark.parametrize(
    ("rounds", "gateways", "broker"),
    [
        (examples(3, fewest=1), 1, False),
        pytest.param(20, 2, False, marks=pytest.mark.slow),
        pytest.param(10, 2, True, marks=pytest.mark.slow),
    ],
)
def test_a_deletion_under_load_is_final(tmp_path, rounds, gateways, broker):
    """The workers of the gateways put jobs on the queue and poll the subscription meanwhile."""
    outcome = asyncio.run(deletions.run(tmp_path, rounds, gateways=gateways, broker=broker))
    assert (outcome.final, outcome.rounds) == (rounds, rounds)
    assert outcome.answers["jobs 201"] > 10 * rounds
    assert outcome.answers["next 200"] > rounds


@pytest.mark.slow
@pytest.mark.parametrize("standin", [False, True], ids=["brokers", "stand-ins"])
def test_each_subscription_gets_each_job_while_servers_are_killed_and_join(tmp_path, standin):
    """None is missing, and none comes again after its ack."""
    history = asyncio.run(outages.run(tmp_path, 9, standin=standin))
    assert history.good, history
    assert len(history.stored) > 100
