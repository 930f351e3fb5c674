"""Clients that close at awkward moments strand nothing; a dead consumer's job is soon another's."""

import os
import random
import statistics

import pytest

from chaos.closing import PROGRAMS, present
from chaos.processes import Processes
from chaos.redelivery import Moment, of_consumers, of_gateways
from tests.lab.examples import examples

ROUNDS = int(os.environ.get("KESTREL_GATEWAY_TEST_CLOSING_ROUNDS", examples(100)))


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    with Processes(tmp_path_factory.mktemp("closing"), servers=1, replicas=1, workers=2) as shared:
        yield shared


@pytest.mark.parametrize(
    "program", [each if each == "python" else pytest.param(each, marks=pytest.mark.slow) for each in PROGRAMS]
)
def test_clients_that_close_at_awkward_moments_strand_nothing(processes, program):
    """Every job of polls that ended anywhere is acked or takeable again, and none that was acked comes back."""
    if not present(program):
        pytest.skip(f"{program} is not on this machine")
    found = PROGRAMS[program](processes, ROUNDS, 1)
    assert found.stored == ROUNDS
    assert 0 < found.read < ROUNDS
    assert found.acked > 0
    assert found.at_once + found.by_lease_end == found.stored - found.acked
    assert (found.stranded, found.again) == (0, 0)


@pytest.mark.parametrize("rounds", [examples(20, fewest=8), pytest.param(50, marks=pytest.mark.slow)])
def test_a_dead_consumers_job_is_the_next_ones(tmp_path, rounds):
    """A parked consumer is killed: the next job goes past it, every time, and in the half of cases within 250 ms."""
    with Processes(tmp_path, servers=1, replicas=1, workers=1) as processes:
        measured = of_consumers(processes.ports[0], Moment.PARKED, rounds, random.Random(1), lease_s=10.0)
    assert (len(measured.took_ms), measured.at_lease_end, measured.lost) == (rounds, 0, 0)
    assert statistics.median(measured.took_ms) < 250


@pytest.mark.parametrize("rounds", [1, pytest.param(2, marks=[pytest.mark.slow, pytest.mark.alone])])
def test_a_dead_gateways_jobs_are_the_next_ones(tmp_path, rounds):
    """A replica that holds a lease of a minute is killed: its job reaches the other replica.

    Where nothing else runs it takes a second, at most.
    """
    with Processes(tmp_path, servers=1, replicas=2, workers=2) as processes:
        measured = of_gateways(processes, rounds)
    assert len(measured.took_ms) == rounds
    assert max(measured.took_ms) < (20_000 if rounds == 1 else 1000)
